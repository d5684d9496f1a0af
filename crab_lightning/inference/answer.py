"""One answer of a trained run, as it was written and as it was read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from crab_lightning.data.windows import SLACK_S, length_of
from crab_lightning.structures import ClipWindow

if TYPE_CHECKING:
    from crab_lightning.data import AVDataModule
    from crab_lightning.structures import DatasetSpec, Prediction, Sample
    from crab_lightning.tasks.base import Task


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        text: What the model wrote.
        value: What was read from it, as JSON values: a class name, the number of an option, events with times
            in seconds, a box. ``None`` where it cannot be read.
        task: Key of the task.
        dataset: Key of the dataset whose row and classes were used.
        truncated: Whether the answer stopped at the token limit.
        tokens: Number of generated tokens.
        seconds: How long it took.
        note: Why it could not be read, where that is known; else empty.
        whole_s: Length of a clip that was asked in windows; the times of ``value`` are seconds of it. Else 0.
        windows: Start, end, text and reading of each window, where the clip was asked in windows.
    """

    text: str
    value: Any
    task: str
    dataset: str
    truncated: bool
    tokens: int
    seconds: float
    note: str = ""
    whole_s: float = 0.0
    windows: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.text


def read_answer(data: AVDataModule, prediction: Prediction, seconds: float) -> Answer:
    """Read what a model wrote with the parser of its task.

    Args:
        data: Tasks and rows.
        prediction: What the model wrote.
        seconds: How long it took.
    """
    sample = prediction.sample
    task, spec = data.tasks[sample.task], data.datasets[sample.dataset]
    parsed, note = read_text(task, spec, sample, prediction.text)
    parsed = in_seconds(task, spec, sample, parsed)
    value = None if parsed is None else task.jsonable(parsed)
    if isinstance(value, int) and spec.classes and "options" not in sample.fields:
        value = spec.classes[value]
    return Answer(
        prediction.text,
        value,
        sample.task,
        sample.dataset,
        prediction.truncated,
        prediction.tokens,
        round(seconds, 3),
        note,
    )


def in_seconds(task: Task[Any], spec: DatasetSpec, sample: Sample, parsed: Any) -> Any:
    """Return an answer about a whole clip with the times of its events in seconds of the clip.

    Answers count in ``clip_s`` parts of the clip. These are seconds where the clip is as long as those of
    the training; of a longer clip they are longer.

    Args:
        task: The task that was asked; an answer without times is returned as it is.
        spec: Row of the dataset.
        sample: What was asked.
        parsed: What was read; ``None`` where it cannot be read.
    """
    if parsed is None or not task.has_times or sample.window is not None:
        return parsed
    whole_s = length_of(sample)
    if whole_s <= task.length_s(sample) + SLACK_S:
        return parsed
    whole = ClipWindow(sample.id, 0, 0.0, whole_s, whole_s)
    return task.stitch([(whole, parsed)], replace(sample, whole_s=whole_s), spec)


def read_text(task: Task[Any], spec: DatasetSpec, sample: Sample, text: str) -> tuple[Any, str]:
    """Return what a task reads from an answer (``None``: nothing), and why nothing could be read.

    Args:
        task: The task that was asked.
        spec: Row of the dataset.
        sample: What was asked.
        text: What the model wrote.
    """
    try:
        return task.parse(text, sample, spec), ""
    except ValueError as err:
        if spec.classes:
            return None, str(err)
        # A run whose config lists no classes still has an answer worth reading.
        name = sample.dataset
        return None, f"The config of this run lists no classes of {name}, so the answer is shown as it is."
