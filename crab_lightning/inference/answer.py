"""One answer of a trained run, as it was written and as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
