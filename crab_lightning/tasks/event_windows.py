"""Code for the tasks with events: the length of a clip, and events of a long clip and its windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crab_lightning.structures import ClipWindow, Sample
from crab_lightning.tasks.answers import class_index
from crab_lightning.tasks.base import AnswerT, InstructedTask
from crab_lightning.tasks.event_text import EventSpan

_TOUCHING_S = 1e-3
"""Two events with a smaller gap touch, because the ends of windows are rounded."""
IN_WINDOW = "in_window"
"""Field of a sample made by :func:`windowed`: the numbers of events of the clip that are ``whole`` inside the
window, ``cut`` by its ends, and ``outside``."""


class EventTask(InstructedTask[AnswerT]):
    """A task whose answers name events with their times.

    Args:
        clip_s: Clip length in seconds, if the dataset's entry gives none; answers are cut to it.
        lenient: Also read times such as ``0:02`` and ``2 s``, and events written as JSON. For event parsing
            the JSON must contain the modalities. State it when you report such results.

    Raises:
        ValueError: If ``clip_s`` is below 1.
    """

    has_times = True

    def __init__(self, clip_s: int = 10, lenient: bool = False) -> None:
        if clip_s < 1:
            raise ValueError(f"clip_s is {clip_s}; it must be at least 1")
        self.clip_s = clip_s
        self.lenient = lenient

    def length_s(self, sample: Sample) -> int:
        """Return the length of a clip in training, in seconds: that of the dataset, else the task's."""
        return int(sample.fields.get("clip_s", self.clip_s))


def in_whole_clip(event: EventSpan, window: ClipWindow, clip_s: int) -> EventSpan:
    """Return an event of a window with its times in seconds of the whole clip.

    Args:
        event: The event, with times in units of the window.
        window: The window.
        clip_s: Number of units of a window. A unit is a second if the window has the length of the training
            clips.
    """
    unit_s = (window.end_s - window.start_s) / clip_s
    start_s, end_s = (round(window.start_s + time * unit_s, 3) for time in (event.start_s, event.end_s))
    return EventSpan(event.name, start_s, min(end_s, window.whole_s))


def joined(events: Iterable[EventSpan], classes: Sequence[str]) -> tuple[EventSpan, ...]:
    """Return events sorted by start; events of one class that touch or overlap are joined."""
    open_events: dict[int | str, EventSpan] = {}
    done: list[EventSpan] = []
    for event in sorted(events, key=lambda e: e.start_s):
        index = class_index(event.name, classes)
        key = event.name if index is None else index
        before = open_events.get(key)
        if before is not None and event.start_s <= before.end_s + _TOUCHING_S:
            open_events[key] = EventSpan(before.name, before.start_s, max(before.end_s, event.end_s))
            continue
        if before is not None:
            done.append(before)
        open_events[key] = event
    return tuple(sorted([*done, *open_events.values()], key=lambda e: (e.start_s, e.end_s, e.name)))


def in_window(event: EventSpan, window: ClipWindow, clip_s: int) -> EventSpan | None:
    """Return an event of a whole clip with its times in a window, in whole units of the window.

    Args:
        event: The event, with times in seconds of the whole clip.
        window: The window.
        clip_s: Number of units of a window.

    Returns:
        The event with times rounded half up; ``None`` if nothing is left after rounding.
    """
    unit_s = (window.end_s - window.start_s) / clip_s
    start, end = (
        math.floor((min(max(time_s, window.start_s), window.end_s) - window.start_s) / unit_s + 0.5)
        for time_s in (event.start_s, event.end_s)
    )
    return EventSpan(event.name, start, end) if start < end else None


def windowed(
    sample: Sample,
    window: ClipWindow,
    events: Sequence[EventSpan],
    fields: Mapping[str, Any],
    target: str,
    clip_s: int,
) -> Sample:
    """Return the sample of one window of a clip, with the annotation of the window.

    Args:
        sample: The sample of the whole clip.
        window: The window.
        events: The true events of the clip, in seconds of the clip.
        fields: The annotation of the window.
        target: The text to be learnt.
        clip_s: Number of units of a window.
    """
    inside = [event for event in events if in_window(event, window, clip_s) is not None]
    whole = sum(
        window.start_s - _TOUCHING_S <= event.start_s and event.end_s <= window.end_s + _TOUCHING_S
        for event in inside
    )
    counts = {"whole": whole, "cut": len(inside) - whole, "outside": len(events) - len(inside)}
    return replace(
        sample,
        id=f"{sample.id}#{window.start_s:g}-{window.end_s:g}",
        window=window,
        target=target,
        fields={**fields, IN_WINDOW: counts},
    )
