"""The rows that need a text, the settings of the requests, and the rules by which a text is accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from crab_lightning.builder.reasoning.prompts import Length
from crab_lightning.data.manifests.files import dataset_folder, has_test
from crab_lightning.data.manifests.layout import LAYOUTS, card, laid_over
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task, describe
from crab_lightning.tasks.event_parsing import EventParsing
from crab_lightning.tasks.event_text import ModalEvents

Source = Literal["train", "weak"]
WEAK = "weak.json"


@dataclass(frozen=True)
class Bounds:
    """Limits of the number of words of the reasoning before the answer.

    Args:
        least: Smallest number of words.
        most: Largest number of words.
    """

    least: int
    most: int


BOUNDS: Mapping[Length, Bounds] = {"short": Bounds(3, 40), "full": Bounds(8, 200)}


@dataclass(frozen=True)
class Question:
    """One row that needs a text.

    Args:
        sample: The row.
        spec: The entry of the dataset.
        task: The task.
        source: Manifest of the row: ``train``, or ``weak`` for weakly labelled rows.
        answer: The right answer in the form with which a text has to end; empty for a weakly labelled row.
        truth: The value that the task's parser has to read from a text; for a weakly labelled row, the set of
            its classes.
    """

    sample: Sample
    spec: DatasetSpec
    task: Task[Any]
    source: Source
    answer: str
    truth: Any

    def rejection(self, text: str, bounds: Bounds, phrases: Sequence[str]) -> str | None:
        """Return the reason why a text cannot be used; ``None`` for a usable text.

        The part of the reason before the colon is one of a few kinds, so that reasons can be counted.

        Args:
            text: The text.
            bounds: Limits of the number of words of the reasoning.
            phrases: Phrases, in lower case, that a text must not contain.
        """
        lowered = " ".join(text.lower().split())
        if leak := next((phrase for phrase in phrases if _holds(lowered, phrase)), None):
            return f"it shows that the answer was told: {leak!r}"
        found = self.task.parse(text, self.sample, self.spec)
        if found is None:
            return "its answer cannot be read"
        if self.source == "weak":
            if (wrong := self._wrong_classes(found)) is not None:
                return f"its classes are not the labelled ones: {wrong}"
            end = ">"
        else:
            if found != self.truth:
                return "its answer is not the right one"
            end = self.answer.rstrip(" .")[-1:]
        if not text.rstrip(" .\n").endswith(end):
            return "it does not end with the answer"
        told = _before_tags(text) if self.source == "weak" else text
        words = len(told.split()) - len(self.answer.split())
        if words < bounds.least:
            return f"its reasoning is too short: {words} words"
        if words > bounds.most:
            return f"its reasoning is too long: {words} words"
        return None

    def _wrong_classes(self, found: ModalEvents) -> str | None:
        named = {event.name for event in (*found.visual, *found.audio)}
        missing, extra = sorted(self.truth - named), sorted(named - self.truth)
        parts = [f"{', '.join(missing)} missing"] if missing else []
        parts += [f"{', '.join(extra)} added"] if extra else []
        return "; ".join(parts) or None


def _before_tags(text: str) -> str:
    return re.split(r"<(?:visual|audio)(?:_event)?>", text, maxsplit=1)[0]


def _holds(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def target_key(spec: DatasetSpec, dataset: str) -> str:
    """Return the key of the training text in a row of the manifest.

    Args:
        spec: The entry of the dataset.
        dataset: Key of the dataset, for the message.

    Raises:
        ValueError: If the layout names no such key.
    """
    known = spec.layout in LAYOUTS or spec.layout.endswith((".yaml", ".yml"))
    content = laid_over(card(spec.layout), spec.columns or {}) if known else dict(spec.columns or {})
    found = (content.get("train") or {}).get("target", content.get("target"))
    if not isinstance(found, str):
        raise ValueError(
            f"data.datasets.{dataset}: its row format names no key for the training text, so no text can"
            f" be written into its rows. State it as `columns: {{train: {{target: KEY}}}}`"
        )
    return found


def with_classes(
    root: Path, dataset: str, spec: DatasetSpec, task: Task[Any], rows: Sequence[Sample]
) -> DatasetSpec:
    """Return the entry of a dataset with class names; missing names are read from both manifests.

    Args:
        root: Data root.
        dataset: Key of the dataset.
        spec: The entry of the dataset.
        task: The task of the dataset.
        rows: The training rows.
    """
    if spec.classes is not None:
        return spec
    tested = has_test(root, dataset, spec)
    more = read_manifest(root, dataset, spec, "test", check_media=False) if tested else []
    return replace(spec, classes=task.class_names([*rows, *more]))


def known_truth(sample: Sample, spec: DatasetSpec, task: Task[Any]) -> tuple[str, Any]:
    """Return the right answer of a row as text, and the value that the task's parser has to read.

    Raises:
        ValueError: If the row has no right answer, or if the parser does not read it from its own text.
    """
    answer, truth = task.target(sample, "direct"), task.truth(sample, spec)
    read = task.parse(answer, sample, spec)
    if read is None or read != truth:
        raise ValueError(
            f"{describe(sample)}: the parser does not read the annotated answer from {answer!r}; correct the "
            f"row"
        )
    return answer, truth


def weak_rows(root: Path, dataset: str, spec: DatasetSpec, task: Task[Any]) -> list[Sample]:
    """Return the weakly labelled rows, whose labels have no times; empty without their manifest."""
    if not isinstance(task, EventParsing) or not (dataset_folder(root, dataset, spec) / WEAK).is_file():
        return []
    columns = laid_over(spec.columns or {}, {"train": {"target": "event"}})
    return read_manifest(root, dataset, replace(spec, train_file=WEAK, columns=columns), "train")


def weak_truth(sample: Sample, spec: DatasetSpec) -> frozenset[str]:
    """Return the labelled classes of a weakly labelled row in the spelling of ``spec.classes``.

    Raises:
        ValueError: If a label is not one of the classes, or if there is no label.
    """
    from crab_lightning.tasks.answers import class_index
    from crab_lightning.tasks.base import classes_of

    classes = classes_of(spec)
    labels = [name.strip() for name in str(sample.fields["annotation"]).split(",") if name.strip()]
    places = [class_index(name, classes) for name in labels]
    if not labels or None in places:
        raise ValueError(
            f"{sample.id} (row {sample.row} of {WEAK}): its labels are {labels}; each must be one of "
            f"{', '.join(classes)}. Correct the row"
        )
    return frozenset(classes[place] for place in places if place is not None)


def timed_text(text: str, events: ModalEvents) -> tuple[str, str]:
    """Return the text of a weakly labelled row in the released form, and its tags alone.

    Args:
        text: The text that the model wrote.
        events: The events that the task's parser read from the text.
    """
    tags = ""
    for sense, spans in (("visual", events.visual), ("audio", events.audio)):
        for name in dict.fromkeys(span.name for span in spans):
            times = ",".join(f"({s.start_s} {s.end_s})" for s in spans if s.name == name)
            tags += f"<{sense}_event>{name},{times}</{sense}_event>"
    told = _before_tags(text).rstrip()
    return f"{told} {tags}".lstrip(), tags


Policy = Literal["short", "full", "auto"]


@dataclass(frozen=True)
class Settings:
    """The settings with which texts are requested and checked.

    Args:
        length: Length of the reasoning. ``auto`` requests full reasoning for the rows that a small model
            answered wrongly or uncertainly, according to ``answers``; other rows get the bare answer.
        tries: Largest number of requests for one row.
        least_words: Smallest number of words of the reasoning; by default, it depends on the length.
        most_words: Largest number of words of the reasoning; by default, it depends on the length.
        examples: Folder of YAML files that take precedence over the instructions and examples of the package.
        leakage: File of phrases that a text must not contain; by default, the file of the package.
        answers: Prediction file, or folder of prediction files, of a small model that answered the training
            rows.
        sure: Smallest probability of a direct answer that counts as certain.
        frames: Number of frames of each video; by default, that of the dataset.
        size_px: Side of the frames in pixels; by default, that of the dataset.
        discarded: Use of a row without a usable text: ``drop`` leaves it out of the manifest, ``direct``
            keeps it with its bare answer.

    Raises:
        ValueError: If ``tries`` is below 1, or if only one of ``length="auto"`` and ``answers`` is given.
        NotADirectoryError: If ``examples`` is not a folder.
    """

    length: Policy = "full"
    tries: int = 3
    least_words: int | None = None
    most_words: int | None = None
    examples: Path | None = None
    leakage: Path | None = None
    answers: Path | None = None
    sure: float = 0.9
    frames: int | None = None
    size_px: int | None = None
    discarded: Literal["drop", "direct"] = "drop"

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"--tries is {self.tries}; at least 1 is needed")
        if (self.length == "auto") != (self.answers is not None):
            raise ValueError(
                "--length auto and --answers belong together: auto wants reasoning where the direct"
                " answer of a small model was wrong or uncertain, and the prediction files in --answers"
                " say where that is"
            )
        if self.examples is not None and not self.examples.is_dir():
            raise NotADirectoryError(f"--examples {self.examples} is not a folder")

    def bounds(self, length: Length) -> Bounds:
        """Return the limits of the number of words of the reasoning."""
        usual = BOUNDS[length]
        least = usual.least if self.least_words is None else self.least_words
        return Bounds(least, usual.most if self.most_words is None else self.most_words)
