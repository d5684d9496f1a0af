"""The base class of tasks, which make prompts and target texts, and read and score answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
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


class Task(ABC, Generic[AnswerT]):
    """A task: it makes the prompt and the target text of a sample, and reads and scores the answer.

    A task does not depend on a model. It is pickled and sent to loader workers, so it holds only settings.
    Differences between datasets are fields of the sample or of the dataset's entry, and never depend on the
    dataset's name.
    """

    has_times: bool = False
    """Whether answers have events with times, so that answers about windows can be joined."""
    optional_keys: tuple[str, ...] = ()
    """Keys of a row with the layout ``plain`` that :meth:`plain` reads if the row has them.

    A key with a similar name is an error, because such a row would teach something else in silence. Keys that
    every row must have need not be named here.
    """
    explained: bool = False
    """Whether prompts end with :meth:`explanation`; the results report it."""

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format to a model that was not trained on it.

        The text is empty if any text is a valid answer.
        """
        return ""

    def conversation(self, sample: Sample) -> Conversation:
        """Return the conversation of the sample's row if it has one, else :meth:`prompt`.

        Raises:
            ValueError: If :meth:`prompt` returns no tuple, so that the positions of the media are not known.
        """
        asked = self.prompt(sample) if sample.conversation is None else sample.conversation
        if not isinstance(asked, tuple):
            returned = "a text" if isinstance(asked, str) else f"a {type(asked).__name__}"
            raise ValueError(
                f"{type(self).__name__}.prompt returns {returned}; it must return a tuple of media and texts,"
                " such as (Media.VIDEO, 'What is seen?')"
            )
        return asked

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that this task reads, for a row with the layout ``plain`` or ``messages``.

        Args:
            row: Some of the keys ``question``, ``options`` (texts), ``answer``, ``expression``, ``events``
                (mappings with ``event``, ``start_s``, ``end_s`` and perhaps ``modality``), ``box``,
                ``points``. A row that is a conversation also has ``text``, the whole answer.

        Returns:
            The fields. The field ``target`` is the text to be learnt, if it differs from :meth:`direct`.

        Raises:
            KeyError: If the row lacks a key that the task needs.
            ValueError: If the task cannot use a value.
        """
        return row

    @abstractmethod
    def prompt(self, sample: Sample) -> Conversation:
        """Return the user's turn: opening text, media in order, instruction."""

    def target(self, sample: Sample, policy: TargetPolicy) -> str:
        """Return the text that the model learns to write.

        Args:
            sample: The sample.
            policy: ``reasoning`` gives the text of the manifest unchanged. ``direct`` gives the shortest text
                in the same format, which :meth:`parse` can read.

        Raises:
            ValueError: If the manifest or :meth:`direct` gives no text, or the policy is unknown.
        """
        if policy == "direct":
            if not isinstance(text := self.direct(sample), str):
                raise ValueError(
                    f"{describe(sample)}: {type(self).__name__}.direct returns {text!r:.60}; it must return"
                    " the answer as a text"
                )
            return text
        if policy != "reasoning":
            raise ValueError(f"the target policy is {policy!r}; it must be 'reasoning' or 'direct'")
        if sample.target is None:
            remedy = (
                ": test manifests contain none. Use training rows to learn from."
                if sample.split == "test"
                else ". Give the column that contains it as `target` of the dataset's columns."
            )
            raise ValueError(f"{describe(sample)} has no target text{remedy}")
        return sample.target

    @abstractmethod
    def direct(self, sample: Sample) -> str:
        """Return the answer without reasoning, in the manifest's tag format."""

    @abstractmethod
    def truth(self, sample: Sample, spec: DatasetSpec) -> AnswerT | None:
        """Return the true answer; ``None`` if the manifest does not have it in this form.

        Raises:
            ValueError: If the annotation cannot be read.
        """

    @abstractmethod
    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> AnswerT | None:
        """Read a model's answer; ``None`` if it cannot be read, which is scored as wrong."""

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, AnswerT] | None:
        """Return every possible answer to a question, by the text that :meth:`direct` would write.

        The result is ``None`` if the possible answers are not a closed set. With candidates, a model can also
        answer with the likeliest text, which needs no parsing.
        """
        return None

    @abstractmethod
    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return new metrics for a dataset; the collection is empty if answers are not scored."""

    @abstractmethod
    def update(
        self, metrics: MetricCollection, answer: AnswerT | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer to the metrics that :meth:`metrics` returned; ``None`` counts as wrong."""

    def update_text(
        self, metrics: MetricCollection, text: str, answer: AnswerT | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add scores that need the whole text of an answer to the metrics; most tasks have none."""

    def score(self, answer: AnswerT | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return the score of one answer in [0, 1]; ``None`` if a single sample has no score."""
        truth = self.truth(sample, spec)
        return None if truth is None else float(answer is not None and answer == truth)

    def prepare(self, answers: Sequence[tuple[AnswerT | None, Sample]], spec: DatasetSpec) -> None:
        """Make, in one call, what :meth:`update` and :meth:`score` need for each of these answers."""

    def ready(self) -> str | None:
        """Load what scoring needs beside the answers, before the first answer; most tasks need nothing.

        Returns:
            The reason why it cannot be loaded, if the task can score without it; ``None`` if all is loaded.

        Raises:
            OSError: If it cannot be loaded, and the task cannot score without it.
            ImportError: If a package is missing, and the task cannot score without it.
        """
        return None

    def do_without(self, reason: str) -> str:
        """Score from now on without the thing that :meth:`ready` could not load.

        Args:
            reason: The reason that :meth:`ready` returned.

        Returns:
            The text that :meth:`note` returns from now on.
        """
        raise NotImplementedError(f"{type(self).__name__} needs something that is not installed: {reason}")

    def save(self, answer: AnswerT | None, sample: Sample, spec: DatasetSpec, folder: Path) -> None:
        """Write the files of a tested answer, such as masks, into the run folder; most tasks have none."""

    def by_window(self, sample: Sample, spec: DatasetSpec) -> bool:
        """Return whether a long clip can be tested by windows, whose answers are joined and scored."""
        return False

    def stitch(
        self, parts: Sequence[tuple[ClipWindow, AnswerT | None]], sample: Sample, spec: DatasetSpec
    ) -> AnswerT | None:
        """Return one answer about a long clip, joined from the answers about its windows.

        Args:
            parts: Each window and the answer about it; ``None`` if the answer could not be read.
            sample: The whole clip, with its length in ``whole_s``.
            spec: The dataset's entry.

        Returns:
            The answer, with times in seconds of the whole clip; ``None`` if no window has an answer.
        """
        raise NotImplementedError(f"{type(self).__name__} does not join the answers of windows")

    def length_s(self, sample: Sample) -> int:
        """Return the length of a clip in the unit of times in answers: its seconds in training."""
        raise NotImplementedError(f"answers of {type(self).__name__} have no times")

    def windowed(self, sample: Sample, window: ClipWindow, spec: DatasetSpec) -> Sample:
        """Return the sample of one window of a long clip, with truth and target cut to the window.

        The field ``in_window`` of this sample has the numbers of events of the clip that are ``whole`` inside
        the window, ``cut`` by its ends, and ``outside``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not cut its truth to windows")

    def beyond(self, text: str, sample: Sample) -> list[str]:
        """Return the events of an answer that end after the clip; :meth:`parse` cuts these events."""
        return []

    def remarks(self, sample: Sample) -> list[str]:
        """Return remarks on an annotation that can be read and scored but is probably wrong."""
        return []

    def caveats(
        self, samples: Sequence[Sample], spec: DatasetSpec, lengths_s: Mapping[str, float]
    ) -> list[str]:
        """Return warnings about the scores of some samples; ``lengths_s`` has clip lengths by sample id."""
        return []

    def note(self, spec: DatasetSpec) -> str | None:
        """Return a remark that is shown with the results; ``None`` if there is none.

        In this class it says that answers were read leniently, if the task has the option and it is set.
        """
        return LENIENT if getattr(self, "lenient", False) else None

    def headline(self, spec: DatasetSpec) -> str | None:
        """Return the key of the metric that is shown first; ``None`` without metrics."""
        return None

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> AnswerT:
        """Return the most frequent true answer, the constant prediction that a trained model has to beat.

        Among equally frequent answers it is the one whose text is first in sorted order.

        Raises:
            ValueError: If no sample has a true answer.
        """
        truths = [truth for sample in samples if (truth := self.truth(sample, spec)) is not None]
        return most_frequent(truths, samples)

    def class_names(self, samples: Sequence[Sample]) -> list[str] | None:
        """Return the class names that occur in these samples, sorted; ``None`` for a task without classes.

        They become ``spec.classes`` if the config leaves it out; give the rows of both manifests.
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
    """Return the result of the task's ``parse``; ``None`` if the answer cannot be read.

    Raises:
        ValueError: If ``parse`` raises a ``ValueError``; it should return ``None`` instead.
    """
    try:
        return task.parse(text, sample, spec)
    except ValueError as err:
        raise ValueError(
            f"{describe(sample)}: {type(task).__name__}.parse fails for the answer {text[:80]!r}: {err}. It"
            " must return None for an answer that it cannot read"
        ) from err


class InstructedTask(Task[AnswerT]):
    """A task with a fixed instruction about a video, or an image, and its sound."""

    opening: Conversation = VIDEO_AND_AUDIO
    instruction: str

    def prompt(self, sample: Sample) -> Conversation:
        """Return the opening text, the media and the instruction."""
        return (*self.opening, self.instruction)


def with_row(sample: Sample, err: ValueError) -> str:
    """Return the text of an error about a sample; the row is added if the text does not name it."""
    said = str(err)
    if type(err) is not ValueError or sample.id in said:
        return said
    return f"{describe(sample)} cannot be read: {said}. Correct the row or remove it"


def most_frequent(truths: Sequence[AnswerT], samples: Sequence[Sample]) -> AnswerT:
    """Return the most frequent of some answers; answers with the same ``repr`` are equal.

    Args:
        truths: The answers.
        samples: The samples of the answers, for the error message.

    Raises:
        ValueError: If there are no answers.
    """
    if not truths:
        of = f" of {samples[0].dataset}" if samples else ""
        raise ValueError(f"there is no majority answer: the {len(samples)} rows{of} contain no true answer")
    shown = [repr(truth) for truth in truths]
    counts = Counter(shown)
    return truths[shown.index(min(counts, key=lambda text: (-counts[text], text)))]


def describe(sample: Sample) -> str:
    """Return the id and the row of a sample as text for a message."""
    side = "test" if sample.split == "test" else "training"
    return f"{sample.id} (row {sample.row} of {sample.dataset}'s {side} rows)"


def chosen(spec: DatasetSpec, known: Sequence[str], default: Sequence[str] | None = None) -> list[str]:
    """Return the names of the metrics that a dataset reports.

    Args:
        spec: The dataset's entry; its ``metrics`` names some of ``known``.
        known: All names, in the order in which they are shown.
        default: Names for an entry without ``metrics``; all of ``known`` when left out.

    Raises:
        ValueError: If the entry names an unknown metric.
    """
    names = spec.metrics if spec.metrics is not None else list(known if default is None else default)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"metrics names {', '.join(map(repr, unknown))}"
            f"{did_you_mean(unknown[0], known)}; task {spec.task!r} knows: {', '.join(known)}"
        )
    return names


def classes_of(spec: DatasetSpec) -> list[str]:
    """Return the class names of a dataset.

    Raises:
        ValueError: If ``spec.classes`` is empty or not set.
    """
    if not spec.classes:
        named = f"a {spec.layout!r} dataset" if spec.layout else "a dataset with columns of its own"
        raise ValueError(
            f"classes of {named} are not known: list them under `classes`, or fill them "
            "with Task.class_names from the rows of both manifests"
        )
    return spec.classes


def box_tensor(box: Sequence[int]) -> Tensor:
    """Return one box as a float64 tensor ``(1, 4)`` for metrics."""
    return torch.tensor([box], dtype=torch.float64)


def index_tensor(index: int) -> Tensor:
    """Return one class index as an int64 tensor ``(1,)`` for metrics."""
    return torch.tensor([index], dtype=torch.int64)
