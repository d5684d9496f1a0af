"""Prediction files: each process writes its answers to part files, which are merged at the end.

The answers of every batch are written at once, so an interrupted test keeps its answers. The next test reads
the part files, leaves out the answered samples, and merges all answers into one file for each dataset. Names:

    predictions/<dataset>.jsonl               answers of ``test``
    predictions/val/<dataset>.jsonl           answers of the last validation
    predictions/predict/<dataset>.jsonl       answers of ``predict``
    predictions/.parts-<split>/               parts of a run that has not ended, and the settings of this run
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
    """The prediction files of one split in a run folder, for one process.

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
        """Return the answers of an interrupted run, after a check that it had the same settings.

        Args:
            identity: Settings and checkpoint that decide the answers, as JSON values.

        Returns:
            The records of the answers, each id once; empty if there are none.

        Raises:
            ValueError: If the parts were written with other settings.
        """
        if not (self.parts / "identity.json").is_file():
            return []
        if self._identity() is None:
            rank_zero_warn(
                f"{self.parts / 'identity.json'} is incomplete, perhaps because of a full disk. It is not "
                "certain that the answers in this folder belong to this test, so they are computed again."
            )
            return []
        self.check(identity, leave_out=("checkpoint",))
        paths = sorted(self.parts.glob("*.jsonl"))
        # New answers go to new files, because the last line of an old part may be incomplete.
        self._session = 1 + max((int(p.stem.rsplit("-", 1)[1]) for p in paths), default=-1)
        return list(_unique(record for path in paths for record in read_records(path)))

    def check(self, identity: Mapping[str, Any], leave_out: Sequence[str] = ()) -> None:
        """Check that the parts were written with the same settings.

        Args:
            identity: Settings and checkpoint that decide the answers, as for :meth:`resume`.
            leave_out: Keys of ``identity`` that are not compared, because they are not known yet.

        Raises:
            ValueError: If the parts were written with other settings.
        """
        before = self._identity() or {}
        keys = {*before, *identity} - set(leave_out)
        changed = sorted(key for key in keys if before.get(key) != identity.get(key))
        if changed:
            raise ValueError(
                f"{self.parts} has answers of an interrupted run with other settings ({', '.join(changed)} "
                "differ). To start again, delete that folder, or give another folder with --run.folder DIR."
            )

    def _identity(self) -> dict[str, Any] | None:
        """Return the settings of the run that wrote the parts; ``None`` if the file is damaged."""
        try:
            return read_json(self.parts / "identity.json", "")
        except DamagedFileError:
            return None

    def start(self, identity: Mapping[str, Any], *, fresh: bool) -> None:
        """Make the folder of the parts; only one process calls this, and a barrier follows.

        Args:
            identity: Settings and checkpoint that decide the answers, as for :meth:`resume`.
            fresh: Remove existing parts.
        """
        if fresh and self.parts.exists():
            shutil.rmtree(self.parts)
        self.parts.mkdir(parents=True, exist_ok=True)
        replace_json(self.parts / "identity.json", dict(identity), indent=1)

    def append(self, records: Sequence[Record]) -> None:
        """Add records to the parts of this process, and flush the files.

        Raises:
            OSError: If the disk is full or the file cannot be written; the error names the file.
            ValueError: If a record has a value that JSON cannot hold.
        """
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
            except OSError as err:  # this error does not name the file
                raise OSError(err.errno, err.strerror, self._open[dataset].name) from err

    def close(self) -> None:
        """Close the parts of this process."""
        for handle in self._open.values():
            with suppress(OSError):  # a full disk was reported by the last write
                handle.close()
        self._open.clear()

    def merge(self, order: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        """Merge all parts into one file for each dataset, and remove the parts.

        Only one process calls this, after a barrier.

        Args:
            order: Dataset -> sample ids in the order of the file; other ids follow, sorted.

        Returns:
            Dataset -> ids of the answered samples.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        answered: dict[str, set[str]] = {}
        datasets = sorted({path.name.rsplit(".", 2)[0] for path in self.parts.glob("*.jsonl")})
        for dataset in datasets:
            parts = sorted(self.parts.glob(f"{dataset}.*-*.jsonl"))
            records = {
                r["id"]: r
                for r in _unique(record for path in parts for record in read_records(path))
                if "of" not in r  # answers about windows are part of the record of the whole clip
            }
            wanted = [i for i in order.get(dataset, ()) if i in records]
            rest = sorted(records.keys() - set(wanted))
            lines = "".join(json.dumps(records[i], ensure_ascii=False) + "\n" for i in [*wanted, *rest])
            replace_text(self.folder / f"{dataset}.jsonl", lines)
            answered[dataset] = set(records)
        shutil.rmtree(self.parts, ignore_errors=True)
        return answered


def read_records(path: Path, *, is_whole: bool = False) -> Iterator[Record]:
    """Yield the records of a prediction file.

    Args:
        path: The file.
        is_whole: Whether the file was finished. If not, an incomplete last line is left out.

    Raises:
        ValueError: If another line is not a JSON object with an ``id``, or the file is not UTF-8 text.
    """
    number = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as err:
                    if not is_whole and not line.endswith("\n"):
                        return
                    raise ValueError(f"{path}, line {number} is not JSON ({err.msg})") from err
                if not isinstance(record, dict) or "id" not in record:
                    raise ValueError(f"{path}, line {number} is not a record with an 'id'")
                yield record
    except UnicodeDecodeError as err:
        raise ValueError(f"{path} is not UTF-8 text ({err.reason}, after line {number})") from err


def _unique(records: Iterator[Record]) -> Iterator[Record]:
    """Yield the first record of every id."""
    seen: set[str] = set()
    for record in records:
        if record["id"] not in seen:
            seen.add(record["id"])
            yield record
