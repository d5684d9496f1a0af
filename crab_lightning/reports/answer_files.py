"""Matches the records of an answer file with the rows of a manifest.

Files of this package are matched by id. The released scripts write one line for each sample into
``inference_<task>.jsonl``. But the file of one task contains the records of all tasks of a run, a second run
adds its lines, several processes write in any order, and the records of nine tasks have no id. In these nine
tasks, the record contains the reference string of the test loader (``output``), which decides the true
answer. Records are matched with rows of the same reference. Then the score of the dataset is exact, but the
clip of an answer is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from crab_lightning.data.manifests.column_types import kind_of
from crab_lightning.data.manifests.layout import LAYOUTS, card
from crab_lightning.data.manifests.repeats import ASKED_AGAIN
from crab_lightning.json_text import NotJsonError, parse_json
from crab_lightning.structures import Sample

Record = dict[str, Any]
OnConflict = Literal["last", "refuse"]

REFERENCE_DECIDES = frozenset(["a2v", "v2a", "ks", "meld", "cremad", "mafw", "dfew", "ave", "avvp"])
"""Layouts whose released records have no id, and whose reference string contains the whole true answer."""

_QUESTION = "Please answer"


class JoinError(ValueError):
    """Records of an answer file cannot be read or cannot be matched with rows."""


@dataclass
class Joined:
    """The answers of an answer file by sample.

    Args:
        answers: The record of each sample, by the id of the sample.
        by: Name of the key by which the records were matched.
        per_sample: Whether each answer certainly belongs to its sample. With ``False``, only the score of the
            dataset is exact (or is assumed to be, if records were matched by order alone).
        records: Number of lines in the file.
        other_tasks: Number of lines of other tasks, which are left out.
        duplicates: Number of lines that a later line replaced.
        conflicts: Number of these lines that had another answer.
        unmatched: Number of lines that belong to no row, which are left out.
        notes: Notes for people who read the score.
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
        """Return all fields except the answers, as JSON values."""
        return {name: value for name, value in vars(self).items() if name != "answers"}


def read_answers(path: Path) -> list[Record]:
    """Read an answer file of this package or of a released script.

    Raises:
        JoinError: If the file is not UTF-8 text, a line is not a JSON object with an answer, or there is no
            line.
        OSError: If the file cannot be read.
    """
    records = []
    # Split at line feeds only: splitlines would also split an answer at the line separators of Unicode.
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as err:
        raise JoinError(
            f"{path} is not UTF-8 text; unpack it if it is compressed, or save it as UTF-8"
        ) from err
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except NotJsonError as err:
            hint = " The file was cut off there: remove the line." if number == len(lines) > 1 else ""
            if number == 1 and line.lstrip()[:1] in ("[", "{"):
                hint = " Each line of the file must be one object; write no JSON text over several lines."
            elif number == 1:
                hint = ' Each line must be an object, for example {"id": "ave/test/x", "answer": "dog"}.'
            raise JoinError(f"{path}, line {number} of {len(lines)} {err}{hint}") from err
        except ValueError as err:
            raise JoinError(f"{path}, line {number} of {len(lines)} {err}") from err
        if isinstance(record, list):
            raise JoinError(
                f"{path}, line {number}: a JSON array; the file has to contain one object in each line, "
                "without brackets around them"
            )
        if not isinstance(record, dict):
            raise JoinError(
                f"{path}, line {number} is {kind_of(record)}; an object with 'answer' is expected"
            )
        if not isinstance(answer_text(record), str):
            keys = [key for key in ("answer", "predict") if key in record]
            found = (
                f"{keys[0]!r} is {kind_of(record[keys[0]])}" if keys else f"the keys are {', '.join(record)}"
            )
            raise JoinError(
                f"{path}, line {number}: {found}; a text under 'answer' (or 'predict', as in the files of the"
                " released scripts) is expected"
            )
        records.append(record)
    if not records:
        raise JoinError(f"{path} contains no answers")
    return records


def answer_text(record: Mapping[str, Any]) -> Any:
    """Return the text of the model in a record."""
    return record.get("answer", record.get("predict"))


def join_answers(
    records: Sequence[Record],
    samples: Sequence[Sample],
    dataset: str,
    layout: str,
    instruction: Callable[[Sample], str],
    on_conflict: OnConflict = "last",
) -> Joined:
    """Match records with samples by the best key that the records have.

    Args:
        records: Lines of an answer file. Those of other tasks are left out.
        samples: The samples that should have been answered, in the order of the manifest.
        dataset: Key of the dataset.
        layout: Layout of the dataset, which is also the ``task_name`` of released records.
        instruction: Function that returns the instruction of a sample as in the prompt.
        on_conflict: Whether, of several different answers to one sample, the last one is used or an error is
            raised.

    Raises:
        JoinError: If no record belongs to the dataset, no record matches, or repeated answers are ambiguous.
    """
    own = [r for r in records if r.get("task_name", r.get("dataset", layout)) in (layout, dataset)]
    if not own:
        said = sorted({str(r.get("task_name", r.get("dataset"))) for r in records})
        raise JoinError(
            f"no record of '{dataset}' (layout {layout}) among {len(records)}; they are of: {said}"
        )
    found: Joined | None = None
    for name, of_record, of_sample in _keys(layout, instruction):
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
            "more than one run. Keep the lines of one run, or use --duplicates last to take the last answers."
        )
    return found


_Key = tuple[str, Callable[[Record], Hashable], Callable[[Sample], Hashable]]
"""The name of a key, and functions that return the key of a record and of a sample."""


def _keys(layout: str, instruction: Callable[[Sample], str]) -> list[_Key]:
    """Return the keys that may identify a record and its sample, with the most reliable key first."""
    readers: dict[str, tuple[Callable[[Any], Hashable], Callable[[Sample], Any]]] = {
        "video stem": (_stem, lambda s: s.videos[0]),
        "image tail": (_tail, lambda s: s.images[0]),
        "instruction": (_question, instruction),
    }

    def of_card(way: Mapping[str, Any]) -> _Key:
        parts = [(key, *readers.get(name, (_text, _field(name)))) for key, name in way["keys"].items()]
        return (
            way["by"],
            lambda r: tuple(read(r.get(key)) for key, read, _ in parts),
            lambda s: tuple(read(of(s)) for _, read, of in parts),
        )

    told = card(layout).get("answers", ()) if layout in LAYOUTS else ()
    return [("sample id", lambda r: r.get("id"), lambda s: s.id), *map(of_card, told)]


def _field(name: str) -> Callable[[Sample], Any]:
    return lambda sample: sample.fields[name]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _stem(value: Any) -> str | None:
    return None if value is None else PurePosixPath(str(value)).stem


def _tail(value: Any) -> tuple[str, ...] | None:
    """Return the last three parts of a path: folder of the clip, folder of the frames and file."""
    return None if value is None else PurePosixPath(str(value)).parts[-3:]


def _question(value: Any) -> str | None:
    """Return an instruction from its first fixed words on. The words before them differ between scripts."""
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
    """Return the records by the key of their rows, and count the records without a row."""
    groups: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    joined.unmatched = sum(len(groups.pop(value)) for value in groups.keys() - rows.keys())
    return groups


def _assign(joined: Joined, group: Sequence[Record], samples: Sequence[Sample]) -> None:
    """Assign the last answers of a group to its samples, in order, and count the others."""
    count = len(samples)
    last = group[-count:]
    earlier = group[: len(group) - len(last)]
    joined.duplicates += len(earlier)
    for place, record in enumerate(earlier):
        # An answer is compared with the answer at the same position of the last repetition, which replaces
        # it.
        joined.conflicts += answer_text(record) != answer_text(last[place % count])
    joined.answers |= {sample.id: record for sample, record in zip(samples, last, strict=False)}


def _by_reference(records: Sequence[Record], samples: Sequence[Sample], layout: str, dataset: str) -> Joined:
    """Match records without an id: by order if every reference agrees, or else by the reference string."""
    said = [_text(r.get("output")) for r in records]
    if said == [sample.reference for sample in samples]:
        answers = {sample.id: record for sample, record in zip(samples, records, strict=True)}
        return Joined(answers, "order, every reference (output) checked")
    if layout not in REFERENCE_DECIDES or any(text is None for text in said):
        if ids := [r[key] for r in records for key in r if key.casefold() == "id" and r[key] is not None]:
            raise JoinError(
                f"none of the {len(ids)} ids of '{dataset}' is the id of a sample: the first is {ids[0]!r},"
                f" and the first sample is {samples[0].id!r}. Write the ids of the samples under the key 'id'"
            )
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
            " Check that --root is the data root of these answers."
        )
    runs = {len(group) / len(rows[text]) for text, group in groups.items()}
    # The released scripts answer a question as often as it is in the manifest.
    most = {
        text: len(own) + sum(sample.fields.get(ASKED_AGAIN, 0) for sample in own)
        for text, own in rows.items()
    }
    over = next((text for text, group in groups.items() if len(group) > most[text]), None)
    if over is not None and not (
        runs == {float(round(max(runs)))} and len(groups) == len(rows)
    ):  # only several complete runs can be distinguished
        raise JoinError(
            f"{len(groups[over])} records of '{dataset}' have the output {over!r}, but the manifest has"
            f" {len(rows[over])} such rows: answers of several runs are mixed and contain no id."
            " Keep the lines of one run."
        )
    for reference, group in groups.items():
        _assign(joined, group, rows[reference])
    joined.notes.append(
        "the records contain no id; each was matched to a row with the same reference. The score is "
        "exact, but the clip of an answer is not known"
    )
    return joined
