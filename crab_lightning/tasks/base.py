"""The interface between data and model: what is asked, what is learnt, how an answer is read and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import (
    ClipWindow,
    Conversation,
    DatasetSpec,
    Media,
    Sample,
    TargetPolicy,
)

AnswerT = TypeVar("AnswerT")

VIDEO_AND_AUDIO = ("This is a video and an audio:", Media.VIDEO, Media.AUDIO)
IMAGE_AND_AUDIO = ("This is an image and an audio:", Media.IMAGE, Media.AUDIO)

LENIENT = (
    "answers were read leniently: the released scripts reject some of them, so these scores are not "
    "comparable with theirs"
)

NO_CLASS = (
    "no row names a class, for example because every event has the length 0, so there is nothing to learn. "
    "Correct the rows, or the columns that the dataset's entry names"
)

EXPLAINED = (
    "the prompts explained the answer format, and the released prompts do not, so these scores are not "
    "comparable with scores under the released prompts"
)


class Task(ABC, Generic[AnswerT]):
    """One task of the unified interface.

    A task knows no model and opens no file. It is pickled to loader workers, so it holds settings only. What
    differs between its datasets is a field of the sample or of the dataset's row, never its name.
    """

    has_times: bool = False
    """Whether answers name events with their times, which can be stitched from those about windows."""
    explained: bool = False
    """Whether prompts end with :meth:`explanation`; reported with the results."""

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that tell a model which was not trained here how to write its answer.

        Empty where any text is an answer.
        """
        return ""

    def conversation(self, sample: Sample) -> Conversation:
        """Return the question as the sample's own row asks it, else :meth:`prompt`.

        Raises:
            ValueError: If the prompt is one text, so that the places of the media are not known.
        """
        asked = self.prompt(sample) if sample.conversation is None else sample.conversation
        if isinstance(asked, str):
            raise ValueError(
                f"{type(self).__name__}.prompt returns a text; it must return a tuple of media and texts,"
                " such as (Media.VIDEO, 'What is seen?')"
            )
        return asked

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that this task reads, made of a row that anyone can write.

        Args:
            row: Some of ``question``, ``options`` (texts), ``answer``, ``expression``, ``events`` (mappings
                with ``event``, ``start_s``, ``end_s`` and perhaps ``modality``), ``box``, ``points``, and for
                a row that is a conversation ``text``, the whole answer.

        Returns:
            The fields; under ``target`` the text to be learnt, where it is not what :meth:`direct` writes.

        Raises:
            KeyError: If the row lacks what the task needs.
            ValueError: If a value is of no use to the task.
        """
        return row

    @abstractmethod
    def prompt(self, sample: Sample) -> Conversation:
        """Return the user's turn: opening text, media in order, instruction."""

    def target(self, sample: Sample, policy: TargetPolicy) -> str:
        """Return the text that the model learns to write.

        Args:
            sample: The sample.
            policy: ``reasoning`` gives the manifest's text unmodified, ``direct`` the shortest text in the
                same tag format that :meth:`parse` reads.

        Raises:
            ValueError: If the manifest of the sample holds no such text, or the policy is unknown.
        """
        if policy == "direct":
            return self.direct(sample)
        if policy != "reasoning":
            raise ValueError(f"target policy is {policy!r}; there are 'reasoning' and 'direct'")
        if sample.target is None:
            remedy = (
                ": test manifests contain none. Learn from training rows."
                if sample.split == "test"
                else ". Name the column that contains it as `target` of the dataset's columns."
            )
            raise ValueError(f"{describe(sample)} has no target text{remedy}")
        return sample.target

    @abstractmethod
    def direct(self, sample: Sample) -> str:
        """Return the answer without reasoning, in the manifest's tag format."""

    @abstractmethod
    def truth(self, sample: Sample, spec: DatasetSpec) -> AnswerT | None:
        """Return the true answer; ``None`` where the manifest does not hold it in this form.

        Raises:
            ValueError: If the annotation cannot be read.
        """

    @abstractmethod
    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> AnswerT | None:
        """Read a model's answer; ``None`` when it cannot be read, which is scored as wrong."""

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, AnswerT] | None:
        """Return every answer that a question leaves open, by the text that :meth:`direct` would write.

        ``None`` where answers are no closed set. A model can then be asked which text it finds likeliest,
        which needs no parsing.
        """
        return None

    @abstractmethod
    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return fresh metrics of a dataset; empty where answers are not scored."""

    @abstractmethod
    def update(
        self, metrics: MetricCollection, answer: AnswerT | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer to what :meth:`metrics` returned; ``None`` counts as wrong."""

    def update_text(
        self, metrics: MetricCollection, text: str, answer: AnswerT | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add what is scored of an answer's words beside what was read of it; most tasks score no more."""

    def score(self, answer: AnswerT | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return the score of one answer in [0, 1]; ``None`` where one sample has no score of its own."""
        truth = self.truth(sample, spec)
        return None if truth is None else float(answer is not None and answer == truth)

    def prepare(self, answers: Sequence[tuple[AnswerT | None, Sample]], spec: DatasetSpec) -> None:
        """Do at once what :meth:`update` and :meth:`score` would do for each of these answers."""

    def ready(self) -> str | None:
        """Load what scoring needs beside the answers, before any is made; most tasks need nothing.

        Returns:
            Why it cannot be had, where the task can do without it; ``None`` when all is there.

        Raises:
            OSError: If it cannot be had, and the task cannot do without it.
        """
        return None

    def do_without(self, reason: str) -> str:
        """Score without what :meth:`ready` could not load, and return what :meth:`note` says from now on."""
        raise NotImplementedError(f"{type(self).__name__} needs something that is not installed: {reason}")

    def save(self, answer: AnswerT | None, sample: Sample, spec: DatasetSpec, folder: Path) -> None:
        """Write the files that belong to a tested answer into the run folder; most tasks have none."""

    def by_window(self, sample: Sample, spec: DatasetSpec) -> bool:
        """Tell whether a long clip can be asked window by window: its answers can be stitched and scored."""
        return False

    def stitch(
        self, parts: Sequence[tuple[ClipWindow, AnswerT | None]], sample: Sample, spec: DatasetSpec
    ) -> AnswerT | None:
        """Return one answer about a long clip, made of the answers about its windows.

        Args:
            parts: Each window and the answer about it; ``None`` where it could not be read.
            sample: The whole clip, with its length in ``whole_s``.
            spec: The dataset's row.

        Returns:
            The answer, its times in seconds of the whole clip; ``None`` where no window has one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not stitch the answers of windows")

    def length_s(self, sample: Sample) -> int:
        """Return the parts of a clip in which answers with times count: its seconds in training."""
        raise NotImplementedError(f"answers of {type(self).__name__} have no times")

    def windowed(self, sample: Sample, window: ClipWindow, spec: DatasetSpec) -> Sample:
        """Return the sample of one window of a long clip, with truth and target cut to the window.

        Its field ``in_window`` counts the events of the clip by where they lie: ``whole``, ``cut``,
        ``outside``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not cut its truth to windows")

    def beyond(self, text: str, sample: Sample) -> list[str]:
        """Return the events of an answer that end behind the clip; reading the answer cuts them off."""
        return []

    def remarks(self, sample: Sample) -> list[str]:
        """Return what is odd about an annotation that can be read and scored."""
        return []

    def note(self, spec: DatasetSpec) -> str | None:
        """Return what a reader of the results has to know; shown with them.

        Here, that answers were read leniently, where a task has the option.
        """
        return LENIENT if getattr(self, "lenient", False) else None

    def headline(self, spec: DatasetSpec) -> str | None:
        """Return the key of the metric that is shown first; ``None`` without metrics."""
        return None

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> AnswerT:
        """Return the most frequent true answer, the constant prediction that a trained model has to beat.

        Of equally frequent ones, the one whose text sorts first.

        Raises:
            ValueError: If no sample has a true answer.
        """
        truths = [truth for sample in samples if (truth := self.truth(sample, spec)) is not None]
        return most_frequent(truths, samples)

    def class_names(self, samples: Sequence[Sample]) -> list[str] | None:
        """Return the closed set that these samples span, sorted; ``None`` for a task without one.

        Used for ``spec.classes`` where the configuration leaves it out; give it the rows of both manifests.
        """
        return None

    def jsonable(self, answer: AnswerT) -> Any:
        """Return an answer as JSON values, for prediction files."""
        return answer

    def check(self, samples: Sequence[Sample], spec: DatasetSpec) -> None:
        """Read the true answer of every sample, so that a bad annotation is found before a long run.

        Raises:
            ValueError: At the first annotation that cannot be read; the message names its row.
        """
        for sample in samples:
            try:
                self.truth(sample, spec)
            except ValueError as err:
                if (said := with_row(sample, err)) == str(err):
                    raise
                raise ValueError(said) from err


def parse_answer(task: Task[AnswerT], text: str, sample: Sample, spec: DatasetSpec) -> AnswerT | None:
    """Return what a task reads from an answer; ``None`` when it cannot be read.

    Raises:
        ValueError: If the task fails, which would end an evaluation because of one answer.
    """
    try:
        return task.parse(text, sample, spec)
    except ValueError as err:
        raise ValueError(
            f"{describe(sample)}: {type(task).__name__}.parse fails for the answer {text[:80]!r}: {err}. It"
            " must return None for an answer that it cannot read"
        ) from err


class InstructedTask(Task[AnswerT]):
    """A task with one instruction about a video, or about an image, and its sound."""

    opening: Conversation = VIDEO_AND_AUDIO
    instruction: str

    def prompt(self, sample: Sample) -> Conversation:
        """Return opening, media, instruction."""
        return (*self.opening, self.instruction)


def with_row(sample: Sample, err: ValueError) -> str:
    """Return what an error about a sample says; it names the row also where Python says what is wrong."""
    said = str(err)
    if type(err) is not ValueError or sample.id in said:
        return said
    return f"{describe(sample)} cannot be read: {said}. Correct the row or remove it"


def most_frequent(truths: Sequence[AnswerT], samples: Sequence[Sample]) -> AnswerT:
    """Return the most frequent of some answers; those that print alike are the same.

    Raises:
        ValueError: If there are none.
    """
    if not truths:
        where = (
            f"the {len(samples)} rows of {samples[0].dataset} contain no true answer"
            if samples
            else "no rows"
        )
        raise ValueError(f"no majority answer: {where}")
    shown = [repr(truth) for truth in truths]
    counts = Counter(shown)
    return truths[shown.index(min(counts, key=lambda text: (-counts[text], text)))]


def describe(sample: Sample) -> str:
    """Name a sample and its row for a message."""
    side = "test" if sample.split == "test" else "training"
    return f"{sample.id} (row {sample.row} of {sample.dataset}'s {side} rows)"


def chosen(spec: DatasetSpec, known: Sequence[str], default: Sequence[str] | None = None) -> list[str]:
    """Return the names of the metrics that a dataset reports.

    Args:
        spec: The dataset's row; its ``metrics`` names some of ``known``.
        known: Every name, in the order shown.
        default: Names for a row that leaves ``metrics`` out; all when left out here.

    Raises:
        ValueError: If the row names an unknown metric.
    """
    names = spec.metrics if spec.metrics is not None else list(known if default is None else default)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"metrics names {', '.join(map(repr, unknown))}"
            f"{did_you_mean(unknown[0], known)}; task {spec.task!r} knows: {', '.join(known)}"
        )
    return names


def _kind_of(spec: DatasetSpec) -> str:
    return f"a {spec.layout!r} dataset" if spec.layout else "a dataset with columns of its own"


def classes_of(spec: DatasetSpec) -> list[str]:
    """Return the closed set of a dataset.

    Raises:
        ValueError: If it has not been filled in.
    """
    if not spec.classes:
        raise ValueError(
            f"classes of {_kind_of(spec)} are not known: list them under `classes`, or fill them "
            "with Task.class_names from the rows of both manifests"
        )
    return spec.classes


def box_tensor(box: Sequence[int]) -> Tensor:
    """Return one box as the float64 ``(1, 4)`` that metrics take."""
    return torch.tensor([box], dtype=torch.float64)


def index_tensor(index: int) -> Tensor:
    """Return one class index as the int64 vector of length 1 that metrics take."""
    return torch.tensor([index], dtype=torch.int64)
