"""One answer of a trained run, as it was written and as it was read; of a long clip, window by window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from crab_lightning.data.windows import SLACK_S, length_of
from crab_lightning.structures import ClipWindow

if TYPE_CHECKING:
    from crab_lightning.data import AVDataModule
    from crab_lightning.structures import DatasetSpec, Prediction, Sample
    from crab_lightning.tasks.base import Task
import time

from crab_lightning.data import AVDataModule
from crab_lightning.data.windows import windows_of
from crab_lightning.inference.question import AskError, put
from crab_lightning.structures import Sample, Windows


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


def windows_of_text(text: str) -> Windows:
    """Return the windows of ``LENGTH`` or ``LENGTH,HOP``.

    Raises:
        AskError: If the text is not one or two numbers, or a number makes no sense.
    """
    try:
        return Windows(*(float(part) for part in text.split(",", 1)))
    except ValueError as err:
        reason = str(err) if str(err).startswith("windows.") else "give LENGTH or LENGTH,HOP in seconds"
        raise AskError(f"--windows {text}: {reason}") from err


def put_windows(
    model: Any, data: AVDataModule, sample: Sample, windows: Windows
) -> tuple[Answer, Any] | None:
    """Ask about each window of a clip, one after the other; ``None`` where the clip is one window.

    Args:
        model: The run's model.
        data: Tasks and datasets, with the model's processor.
        sample: The question about the whole clip.
        windows: Length and distance of the windows.

    Returns:
        The answer with its timeline, and what was read, stitched; ``None`` where no window could be read.
    """
    began = time.perf_counter()
    task, spec = data.tasks[sample.task], data.datasets[sample.dataset]
    whole_s = length_of(sample, data.limits)
    note = ""
    parts: list[tuple[ClipWindow, Any]] = []
    told: list[dict[str, Any]] = []
    tokens, truncated = 0, False
    for one in windows_of(sample, whole_s, windows):
        if one.window is None:
            return None
        said = put(model, data, one)
        answer, unread = read_text(task, spec, one, said.text)
        note = unread or note
        parts.append((one.window, answer))
        told.append(
            {
                "start_s": one.window.start_s,
                "end_s": one.window.end_s,
                "answer": said.text,
                "parsed": None if answer is None else task.jsonable(answer),
                "beyond_window": task.beyond(said.text, one),
            }
        )
        tokens, truncated = tokens + said.tokens, truncated or said.truncated
    parsed = None if note else task.stitch(parts, replace(sample, whole_s=whole_s), spec)
    text = "\n".join(window["answer"] for window in told)
    value = None if parsed is None else task.jsonable(parsed)
    seconds = round(time.perf_counter() - began, 3)
    about = (sample.task, sample.dataset, truncated, tokens, seconds, note, whole_s)
    return Answer(text, value, *about, tuple(told)), parsed


def ask_windows(model: Any, data: AVDataModule, sample: Sample, windows: Windows) -> Answer:
    """Ask about each window of a clip and return one answer with its timeline.

    Args:
        model: The run's model.
        data: Tasks and datasets, with the model's processor.
        sample: The question about the whole clip.
        windows: Length and distance of the windows.

    Raises:
        AskError: If the answers of the task cannot be stitched, or the clip is no longer than one window.
    """
    task = data.tasks[sample.task]
    if not task.has_times or len(sample.videos) > 1 or len(sample.audios) > 1:
        raise AskError(
            f"`windows` is for one clip and for tasks whose answers have times, events; leave it out for "
            f"task {sample.task}"
        )
    found = put_windows(model, data, sample, windows)
    if found is None:
        raise AskError(
            f"`windows` {windows.length_s:g}: the clip lasts {length_of(sample, data.limits):g} s, which is "
            "one window; leave it out"
        )
    return found[0]


def timeline(value: Any, whole_s: float) -> list[str]:
    """Return the events of an answer as lines of text: a name, a bar from the clip's start to its end, times.

    Args:
        value: The answer as JSON values, of event localization or event parsing.
        whole_s: Length of the clip.
    """
    width = 40  # characters of a bar
    spans: dict[str, list[tuple[float, float]]] = {}
    if isinstance(value, dict):
        for side, events in value.items():
            for name, start_s, end_s in events:
                spans.setdefault(f"{name} ({side})", []).append((start_s, end_s))
    else:
        for event in value or ():
            spans.setdefault(event["event"], []).append((event["start_s"], event["end_s"]))
    longest = max(map(len, spans), default=0)
    lines = []
    for name, times in spans.items():
        bar = ["·"] * width
        for start_s, end_s in times:
            first = min(int(start_s / whole_s * width), width - 1)
            last = max(first + 1, min(round(end_s / whole_s * width), width))
            bar[first:last] = "█" * (last - first)
        said = ", ".join(f"{start_s:g} to {end_s:g} s" for start_s, end_s in times)
        lines.append(f"{name:<{longest}}  {''.join(bar)}  {said}")
    return lines
