"""Answer files joined to the manifest: ours by id, the released scripts' by what their records hold.

The released scripts write one line a sample into ``inference_<task>.jsonl``, but the file of one task holds
the records of every task that ran, a second run appends, several processes write in the order they finish,
and nine tasks keep no id at all. In those nine the record still holds the reference string that the test
loader made (``output``), and that string alone decides the truth: records join rows of the same reference,
which makes the score of the dataset exact, though not which clip an answer belongs to.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from crab_lightning.data.manifests.layout import LAYOUTS, card
from crab_lightning.data.manifests.repeats import ASKED_AGAIN
from crab_lightning.structures import Sample

Record = dict[str, Any]
OnConflict = Literal["last", "refuse"]

REFERENCE_DECIDES = frozenset(["a2v", "v2a", "ks", "meld", "cremad", "mafw", "dfew", "ave", "avvp"])
"""Layouts whose released records hold no id, and whose reference string holds the whole true answer."""

_QUESTION = "Please answer"


class JoinError(ValueError):
    """Answers that cannot be told apart or belong to no row."""


@dataclass
class Joined:
    """Answers by sample.

    Args:
        answers: Sample id -> its record.
        by: What they were joined by, in words.
        per_sample: Whether each answer is known to belong to its very sample; ``False`` where only the
            score of the dataset is exact (or, joined by order alone, assumed).
        records: Lines in the file.
        other_tasks: Lines of other tasks, left out.
        duplicates: Lines that a later one replaced.
        conflicts: Lines among them that said something else.
        unmatched: Lines that belong to no row, left out.
        notes: What the reader of a score has to know.
    """

    answers: dict[str, Record]
    by: str
    per_sample: bool = True
    records: int = 0
    other_tasks: int = 0
    duplicates: int = 0
    conflicts: int = 0
    unmatched: int = 0
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return everything but the answers, as JSON values."""
        names = ("by", "per_sample", "records", "other_tasks", "duplicates", "conflicts", "unmatched")
        return {name: getattr(self, name) for name in names} | {"notes": list(self.notes)}


def read_answers(path: Path) -> list[Record]:
    """Read an answer file, ours or a released script's.

    Raises:
        JoinError: If a line is not a JSON object with an answer, or the file is empty.
    """
    records = []
    # By line feeds alone: splitlines would also part an answer at the line separators Unicode has.
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as err:
        raise JoinError(f"{path} is not UTF-8 text, so it is not an answer file") from err
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as err:
            hint = " The run was cut off there: remove the line." if number == len(lines) > 1 else ""
            if number == 1 and line.lstrip()[:1] in ("[", "{"):
                hint = " Each line of the file must be one object; write no JSON text over several lines."
            raise JoinError(f"{path}, line {number} of {len(lines)}: not JSON ({err.msg}).{hint}") from err
        if isinstance(record, list):
            raise JoinError(
                f"{path}, line {number}: a JSON array; the file has to contain one object in each line, "
                "without brackets around them"
            )
        if not isinstance(record, dict) or not isinstance(answer_text(record), str):
            raise JoinError(
                f"{path}, line {number}: expected an object with 'answer' (ours) or 'predict'"
                " (released scripts)"
            )
        records.append(record)
    if not records:
        raise JoinError(f"{path} contains no answers")
    return records


def answer_text(record: Mapping[str, Any]) -> Any:
    """Return what the model wrote."""
    return record.get("answer", record.get("predict"))


def join_answers(
    records: Sequence[Record],
    samples: Sequence[Sample],
    dataset: str,
    layout: str,
    instruction: Callable[[Sample], str],
    on_conflict: OnConflict = "last",
) -> Joined:
    """Join records to samples by the best key that they hold.

    Args:
        records: Lines of an answer file; those of other tasks are left out.
        samples: The rows that should have been answered, in manifest order.
        dataset: Key of the dataset.
        layout: Its layout, which is also the ``task_name`` of released records.
        instruction: Returns a sample's instruction as the prompt prints it.
        on_conflict: Whether the last of several different answers to one sample counts, or is an error.

    Raises:
        JoinError: If no record belongs to the dataset, none joins, or repeated answers cannot be told apart.
    """
    own = [r for r in records if r.get("task_name", r.get("dataset", layout)) in (layout, dataset)]
    if not own:
        said = sorted({str(r.get("task_name", r.get("dataset"))) for r in records})
        raise JoinError(
            f"no record of '{dataset}' (layout {layout}) among {len(records)}; they are of: {said}"
        )
    keys = _Keys(layout, instruction)
    found: Joined | None = None
    for name, of_record, of_sample in keys.candidates():
        rows: dict[Hashable, list[Sample]] = defaultdict(list)
        for sample in samples:
            rows[of_sample(sample)].append(sample)
        if any(of_record(r) in rows for r in own):
            found = _by_key(own, rows, of_record, name)
            break
    if found is None:
        found = _by_reference(own, samples, layout, dataset)
    found.records, found.other_tasks = len(records), len(records) - len(own)
    if found.conflicts and on_conflict == "refuse":
        raise JoinError(
            f"{found.conflicts} samples of '{dataset}' have several answers that differ: the file contains "
            "more than one run. Keep one run's lines, or take the last answer of each with --duplicates last."
        )
    return found


class _Keys:
    """What identifies a record of a layout and a sample alike, the surest first."""

    def __init__(self, layout: str, instruction: Callable[[Sample], str]) -> None:
        self.layout, self.instruction = layout, instruction

    def candidates(self) -> list[tuple[str, Callable[[Record], Hashable], Callable[[Sample], Hashable]]]:
        """Return name, key of a record and key of a sample."""
        told = card(self.layout).get("answers", ()) if self.layout in LAYOUTS else ()
        return [("sample id", lambda r: r.get("id"), lambda s: s.id), *(self._of_card(way) for way in told)]

    def _of_card(
        self, way: Mapping[str, Any]
    ) -> tuple[str, Callable[[Record], Hashable], Callable[[Sample], Hashable]]:
        """Return one way of a card: keys of the record, each with what it is of the sample."""
        keys: Mapping[str, str] = way["keys"]
        readers: dict[str, tuple[Callable[[Any], Hashable], Callable[[Sample], Any]]] = {
            "video stem": (_stem, lambda s: s.videos[0]),
            "image tail": (_tail, lambda s: s.images[0]),
            "instruction": (_question, self.instruction),
        }
        parts = [(key, *readers.get(name, (_text, _field(name)))) for key, name in keys.items()]
        return (
            way["by"],
            lambda r: tuple(read(r.get(key)) for key, read, _ in parts),
            lambda s: tuple(read(of(s)) for _, read, of in parts),
        )


def _field(name: str) -> Callable[[Sample], Any]:
    return lambda sample: sample.fields[name]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _stem(value: Any) -> str | None:
    return None if value is None else PurePosixPath(str(value)).stem


def _tail(value: Any) -> tuple[str, ...] | None:
    """Return the clip's folder, the folder of frames and the file: roots differ between machines."""
    return None if value is None else PurePosixPath(str(value)).parts[-3:]


def _question(value: Any) -> str | None:
    """Return an instruction from its first fixed words on; what stands before them differs by script."""
    if value is None:
        return None
    text = str(value)
    return " ".join(text[max(text.find(_QUESTION), 0) :].split())


def _by_key(
    records: Sequence[Record],
    rows: Mapping[Hashable, Sequence[Sample]],
    key: Callable[[Record], Hashable],
    name: str,
) -> Joined:
    joined, shared = Joined({}, name), 0
    groups = _grouped(joined, records, rows, key)
    for value, group in groups.items():
        _assign(joined, group, rows[value])
        shared += len(rows[value]) > 1
    if shared:
        joined.per_sample = False
        joined.notes.append(
            f"{shared} keys belong to several rows of the manifest; their answers were assigned in the"
            f" order of the file"
        )
    return joined


def _grouped(
    joined: Joined,
    records: Sequence[Record],
    rows: Mapping[Hashable, Sequence[Sample]],
    key: Callable[[Record], Hashable],
) -> dict[Hashable, list[Record]]:
    """Return records by the key of their rows, and count those of no row."""
    groups: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    joined.unmatched = sum(len(groups.pop(value)) for value in groups.keys() - rows.keys())
    return groups


def _assign(joined: Joined, group: Sequence[Record], samples: Sequence[Sample]) -> None:
    """Give the last answers of a group to its samples, in order, and count the others."""
    count = len(samples)
    last = group[-count:]
    earlier = group[: len(group) - len(last)]
    joined.duplicates += len(earlier)
    for place, record in enumerate(earlier):
        # Position by position within a repetition: an answer is compared with its own replacement.
        joined.conflicts += answer_text(record) != answer_text(last[place % count])
    joined.answers |= {sample.id: record for sample, record in zip(samples, last, strict=False)}


def _by_reference(records: Sequence[Record], samples: Sequence[Sample], layout: str, dataset: str) -> Joined:
    """Join records without an id, by order where every reference agrees, else by the reference string."""
    said = [_text(r.get("output")) for r in records]
    if said == [sample.reference for sample in samples]:
        answers = {sample.id: record for sample, record in zip(samples, records, strict=True)}
        return Joined(answers, "order, every reference (output) checked", notes=[])
    if layout not in REFERENCE_DECIDES or any(text is None for text in said):
        if len(records) != len(samples):
            raise JoinError(
                f"the {len(records)} records of '{dataset}' contain nothing that names their sample, "
                f"and the manifest has {len(samples)} rows, so they cannot be matched by order either. "
                "Answer the set again with `test`, or add an 'id' to each record."
            )
        answers = {sample.id: record for sample, record in zip(samples, records, strict=True)}
        note = (
            "the records name no sample, so they were matched by order, which is wrong if several "
            "processes wrote them"
        )
        return Joined(answers, "order, unchecked", per_sample=False, notes=[note])
    rows: dict[Hashable, list[Sample]] = defaultdict(list)
    for sample in samples:
        rows[sample.reference].append(sample)
    joined = Joined({}, "reference string (output)", per_sample=False)
    groups = _grouped(joined, records, rows, lambda record: _text(record.get("output")))
    if not groups:
        raise JoinError(
            f"none of the {len(records)} records of '{dataset}' has the reference string of a manifest row:"
            f" first output {said[0]!r}, first reference {samples[0].reference!r}."
            " Is --root the data that was answered?"
        )
    runs = {len(group) / len(rows[text]) for text, group in groups.items()}
    # The released scripts answer a question as often as the manifest asks it.
    most = {
        text: len(own) + sum(sample.fields.get(ASKED_AGAIN, 0) for sample in own)
        for text, own in rows.items()
    }
    over = next((text for text, group in groups.items() if len(group) > most[text]), None)
    if over is not None and not (
        runs == {float(round(max(runs)))} and len(groups) == len(rows)
    ):  # only a whole number of whole runs can be told apart
        raise JoinError(
            f"{len(groups[over])} records of '{dataset}' have the output {over!r}, but the manifest has"
            f" {len(rows[over])} such rows: answers of several runs are mixed and contain no id."
            " Keep one run's lines."
        )
    for reference, group in groups.items():
        _assign(joined, group, rows[reference])
    joined.notes.append(
        "the records contain no id; each was matched to a row with the same reference. The score is "
        "exact, but the clip of an answer is not known"
    )
    return joined
