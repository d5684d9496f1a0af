"""The answer of a trained run, as text and as a parsed value. Long clips are asked about in windows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from crab_lightning.data import AVDataModule
from crab_lightning.data.windows import SLACK_S, length_of, windows_of
from crab_lightning.inference.question import put
from crab_lightning.inference.question_files import AskError
from crab_lightning.structures import ClipWindow, DatasetSpec, Prediction, Sample, Windows
from crab_lightning.tasks.base import Task


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        text: The text that the model wrote.
        value: The parsed answer as JSON values: a class name, the number of an option, events with times in
            seconds, or a box. ``None`` if the text cannot be parsed.
        task: Key of the task.
        dataset: Key of the dataset whose settings and classes were used.
        truncated: Whether the answer stopped at the token limit.
        tokens: Number of generated tokens.
        seconds: Time that the answer took, in seconds.
        note: The reason why the text cannot be parsed, if it is known; else empty.
        whole_s: Length in seconds of a clip that was asked about in windows, else 0. The times in ``value``
            are then seconds of the whole clip.
        windows: Start, end, text and parsed answer of each window, if the clip was asked about in windows.
        parsed: The parsed answer as the task returns it; ``None`` if the text cannot be parsed.
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
    parsed: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text


def ask_once(model: Any, data: AVDataModule, sample: Sample) -> Answer:
    """Ask one question about a whole clip.

    Args:
        model: Model of the run.
        data: Tasks and datasets, with the processor of the model.
        sample: The question.
    """
    began = time.perf_counter()
    prediction = put(model, data, sample)
    return read_answer(data, prediction, time.perf_counter() - began)


def read_answer(data: AVDataModule, prediction: Prediction, seconds: float) -> Answer:
    """Parse the text of a model with the parser of its task.

    Args:
        data: Tasks and datasets.
        prediction: The text of the model, with its sample.
        seconds: Time that the answer took, in seconds.
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
        parsed=parsed,
    )


def read_text(task: Task[Any], spec: DatasetSpec, sample: Sample, text: str) -> tuple[Any, str]:
    """Parse an answer of a model.

    In an answer, a clip has ``clip_s`` equal parts. A part is one second if the clip is as long as the clips
    of the training, and more in a longer clip. In the parsed answer about a whole clip, times are in seconds.

    Args:
        task: Task of the question.
        spec: Entry of the dataset in the config.
        sample: The question.
        text: The text that the model wrote.

    Returns:
        The parsed answer, or ``None`` if the text cannot be parsed; and a message if the config of the run
        makes parsing impossible, else an empty text.
    """
    try:
        parsed = task.parse(text, sample, spec)
    except ValueError as err:
        if spec.classes:
            return None, str(err)
        # If the config lists no classes, the text of the answer is still useful.
        name = sample.dataset
        return None, f"The config of this run lists no classes of {name}, so the answer is shown as it is."
    if parsed is not None and task.has_times and sample.window is None:
        whole_s = length_of(sample)
        if whole_s > task.length_s(sample) + SLACK_S:
            whole = ClipWindow(sample.id, 0, 0.0, whole_s, whole_s)
            parsed = task.stitch([(whole, parsed)], replace(sample, whole_s=whole_s), spec)
    return parsed, ""


def windows_of_text(text: str) -> Windows:
    """Return the windows for a text of the form ``LENGTH`` or ``LENGTH,HOP``, in seconds.

    Raises:
        AskError: If the text has another form, or a number is out of range.
    """
    try:
        return Windows(*(float(part) for part in text.split(",", 1)))
    except ValueError as err:
        reason = str(err) if str(err).startswith("windows.") else "give LENGTH or LENGTH,HOP in seconds"
        raise AskError(f"--windows {text}: {reason}") from err


def put_windows(model: Any, data: AVDataModule, sample: Sample, windows: Windows) -> Answer | None:
    """Ask about each window of a clip, one after the other.

    Args:
        model: Model of the run.
        data: Tasks and datasets, with the processor of the model.
        sample: The question about the whole clip.
        windows: Length and distance of the windows.

    Returns:
        One answer, joined from the answers about all windows. ``None`` if the clip is not longer than one
        window.
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
    return Answer(text, value, *about, tuple(told), parsed)


def ask_windows(model: Any, data: AVDataModule, sample: Sample, windows: Windows) -> Answer:
    """Ask about each window of a clip, and return one answer about the whole clip.

    Args:
        model: Model of the run.
        data: Tasks and datasets, with the processor of the model.
        sample: The question about the whole clip.
        windows: Length and distance of the windows.

    Raises:
        AskError: If the answers of the task have no times, there is more than one clip, or the clip is not
            longer than one window.
    """
    task = data.tasks[sample.task]
    if not task.has_times or len(sample.videos) > 1 or len(sample.audios) > 1:
        raise AskError(
            f"`windows` is for one clip, and for tasks whose answers are events with times; leave it out for "
            f"task {sample.task}"
        )
    found = put_windows(model, data, sample, windows)
    if found is None:
        raise AskError(
            f"`windows` {windows.length_s:g}: the clip lasts {length_of(sample, data.limits):g} s, which is "
            "only one window; leave this argument out"
        )
    return found


def timeline(value: Any, whole_s: float) -> list[str]:
    """Return the events of an answer as lines of text: a name, a bar for the whole clip, and the times.

    Args:
        value: An answer to event localization or event parsing, as JSON values.
        whole_s: Length of the clip in seconds.
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
