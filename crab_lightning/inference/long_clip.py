"""One question about a long clip, put window by window."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from crab_lightning.data import AVDataModule
from crab_lightning.data.windows import length_of, windows_of
from crab_lightning.inference.answer import Answer
from crab_lightning.inference.question import AskError, put
from crab_lightning.structures import ClipWindow, Sample, Windows
from crab_lightning.tasks.base import Task


def ask_windows(model: Any, data: AVDataModule, sample: Sample, windows: Windows) -> Answer:
    """Ask about each window of a clip, one after the other, and return one answer with its timeline.

    Args:
        model: The run's model.
        data: Tasks and datasets, with the model's processor.
        sample: The question about the whole clip.
        windows: Length and distance of the windows.

    Raises:
        AskError: If the answers of the task cannot be stitched, or the clip is no longer than one window.
    """
    task, spec = data.tasks[sample.task], data.datasets[sample.dataset]
    if type(task).stitch is Task.stitch or len(sample.videos) > 1 or len(sample.audios) > 1:
        raise AskError(
            f"`windows` is for one clip and for tasks whose answers have times, events; leave it out for "
            f"task {sample.task}"
        )
    whole_s = length_of(sample, data.limits)
    asked = windows_of(sample, whole_s, windows)
    if asked[0].window is None:
        raise AskError(
            f"`windows` {windows.length_s:g}: the clip lasts {whole_s:g} s, which is one window; leave it out"
        )
    began, note = time.perf_counter(), ""
    parts: list[tuple[ClipWindow, Any]] = []
    told: list[dict[str, Any]] = []
    tokens, truncated = 0, False
    for one in asked:
        assert one.window is not None
        said = put(model, data, one)
        try:
            answer = task.parse(said.text, one, spec)
        except ValueError as err:  # a run whose config lists no classes still has answers worth reading
            answer, note = None, str(err)
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
    stitched = None
    if not note:
        stitched = task.stitch(parts, replace(sample, whole_s=whole_s), spec)
    return Answer(
        "\n".join(window["answer"] for window in told),
        None if stitched is None else task.jsonable(stitched),
        sample.task,
        sample.dataset,
        truncated,
        tokens,
        round(time.perf_counter() - began, 3),
        note,
        whole_s,
        tuple(told),
    )


def timeline(value: Any, whole_s: float, width: int = 40) -> list[str]:
    """Return the events of an answer as lines of text: a name, a bar from the clip's start to its end, times.

    Args:
        value: The answer as JSON values, of event localization or event parsing.
        whole_s: Length of the clip.
        width: Characters of a bar.
    """
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
