"""One question about a long clip, put window by window."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from crab_lightning.data import AVDataModule
from crab_lightning.data.windows import length_of, windows_of
from crab_lightning.inference.answer import Answer, read_text
from crab_lightning.inference.question import AskError, put
from crab_lightning.structures import ClipWindow, Sample, Windows


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
