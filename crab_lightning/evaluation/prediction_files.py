"""Prediction files: answers written as they come, one part per process, merged when a run is complete.

A part is appended to and flushed batch by batch, so a killed test keeps what it has answered; the next one
reads the parts, leaves those samples out and merges everything into one file per dataset. Names:

    predictions/<dataset>.jsonl               answers of ``test``
    predictions/val/<dataset>.jsonl           answers of the last validation
    predictions/predict/<dataset>.jsonl       answers of ``predict``
    predictions/.parts-<split>/               parts of a run that has not ended, and what it was asked to do
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lightning.pytorch.utilities import rank_zero_warn

from crab_lightning.files import DamagedFileError, read_json, replace_json, replace_text

Record = dict[str, Any]


class PredictionFiles:
    """The prediction files of one split in a run folder, as seen by one process.

    Args:
        folder: The run folder.
        split: ``test``, ``val`` or ``predict``.
        rank: Index of this process.
    """

    def __init__(self, folder: Path, split: str, rank: int = 0) -> None:
        base = folder / "predictions"
        self.folder = base if split == "test" else base / split
        self.parts = base / f".parts-{split}"
        self.rank = rank
        self._open: dict[str, IO[str]] = {}
        self._session = 0

    def resume(self, identity: Mapping[str, Any]) -> list[Record]:
        """Read the parts of an earlier run that was killed, after checking that it was the same run.

        Args:
            identity: What decides the answers: settings and checkpoint. JSON values only.

        Returns:
            The records already answered, each id once; empty when nothing was left behind.

        Raises:
            ValueError: If the parts were written with another identity.
        """
        if not (self.parts / "identity.json").is_file():
            return []
        if self._identity() is None:
            rank_zero_warn(
                f"{self.parts / 'identity.json'} is incomplete, perhaps because of a full disk. It is not "
                "certain that the answers beside it belong to this test, so they are computed again."
            )
            return []
        self.check(identity, leave_out=("checkpoint",))
        paths = sorted(self.parts.glob("*.jsonl"))
        # A session of its own for what follows: a part that was cut off in mid-line is never appended to.
        self._session = 1 + max((int(p.stem.rsplit("-", 1)[1]) for p in paths), default=-1)
        return list(_unique(record for path in paths for record in read_records(path)))

    def check(self, identity: Mapping[str, Any], leave_out: Sequence[str] = ()) -> None:
        """Make sure that the parts were written by the same run.

        Args:
            identity: As for :meth:`resume`.
            leave_out: Keys that are not known yet.

        Raises:
            ValueError: If another value decided the answers in the parts.
        """
        before = self._identity() or {}
        keys = {*before, *identity} - set(leave_out)
        changed = sorted(key for key in keys if before.get(key) != identity.get(key))
        if changed:
            raise ValueError(
                f"{self.parts} has answers of an interrupted run with other settings ({', '.join(changed)} "
                "differ). To start anew, delete that folder, or write elsewhere with --run.folder DIR."
            )

    def _identity(self) -> dict[str, Any] | None:
        """Return what the parts were asked to do; ``None`` where a full disk has cut that off."""
        try:
            found = read_json(self.parts / "identity.json", "")
        except DamagedFileError:
            return None
        return found if isinstance(found, dict) else None

    def start(self, identity: Mapping[str, Any], *, fresh: bool) -> None:
        """Make the parts folder; to be called by one process, with a barrier after it.

        Args:
            identity: As for :meth:`resume`.
            fresh: Remove parts that are there.
        """
        if fresh and self.parts.exists():
            shutil.rmtree(self.parts)
        self.parts.mkdir(parents=True, exist_ok=True)
        replace_json(self.parts / "identity.json", dict(identity), indent=1)

    def append(self, records: Sequence[Record]) -> None:
        """Add records to this process's parts and hand them to the operating system."""
        touched = set()
        for record in records:
            dataset = record["dataset"]
            if dataset not in self._open:
                path = self.parts / f"{dataset}.{self.rank}-{self._session}.jsonl"
                self._open[dataset] = path.open("a", encoding="utf-8")
            try:
                line = json.dumps(record, ensure_ascii=False)
            except TypeError as err:
                raise ValueError(
                    f"data.datasets.{dataset}: an answer that the task {record['task']!r} has read,"
                    f" {record.get('parsed')!r}, cannot be written as JSON ({err}). Let the task's jsonable"
                    " return texts, numbers, lists and mappings"
                ) from err
            self._open[dataset].write(line + "\n")
            touched.add(dataset)
        for dataset in touched:
            try:
                self._open[dataset].flush()
            except OSError as err:  # which does not say which file it is about
                raise OSError(err.errno, err.strerror, self._open[dataset].name) from err

    def close(self) -> None:
        """Close this process's parts."""
        for handle in self._open.values():
            with suppress(OSError):  # a full disk, which the write before has reported
                handle.close()
        self._open.clear()

    def merge(self, order: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        """Write one file per dataset from all parts and remove the parts; for one process, after a barrier.

        Args:
            order: Dataset -> sample ids in the order wanted in its file; ids not named follow, sorted.

        Returns:
            Dataset -> ids that were answered.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        answered: dict[str, set[str]] = {}
        datasets = sorted({path.name.rsplit(".", 2)[0] for path in self.parts.glob("*.jsonl")})
        for dataset in datasets:
            parts = sorted(self.parts.glob(f"{dataset}.*-*.jsonl"))
            records = {
                r["id"]: r
                for r in _unique(record for path in parts for record in read_records(path))
                if "of" not in r  # an answer about a window; the record of the whole clip holds it
            }
            wanted = [i for i in order.get(dataset, ()) if i in records]
            rest = sorted(records.keys() - set(wanted))
            lines = "".join(json.dumps(records[i], ensure_ascii=False) + "\n" for i in [*wanted, *rest])
            replace_text(self.folder / f"{dataset}.jsonl", lines)
            answered[dataset] = set(records)
        shutil.rmtree(self.parts, ignore_errors=True)
        return answered


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a prediction file; a last line cut off by a kill is left out.

    Raises:
        ValueError: If any other line is not a JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        number = 0
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as err:
                if not line.endswith("\n"):
                    return
                raise ValueError(f"{path}, line {number}: not JSON ({err.msg})") from err
            if not isinstance(record, dict) or "id" not in record:
                raise ValueError(f"{path}, line {number}: not a record with an 'id'")
            yield record


def _unique(records: Iterator[Record]) -> Iterator[Record]:
    """Keep the first record of every id."""
    seen: set[str] = set()
    for record in records:
        if record["id"] not in seen:
            seen.add(record["id"])
            yield record
