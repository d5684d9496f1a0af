"""What the tasks of events share: the length of a clip, and events of a long clip and of its windows."""

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
"""Ends of windows are fractions of a second; a gap below this is none."""
IN_WINDOW = "in_window"
"""Field of a sample made by :func:`windowed`: how many events of its clip lie ``whole`` in the window, were
``cut`` at its ends, and lie ``outside``."""


class EventTask(InstructedTask[AnswerT]):
    """A task whose answers name events with their times.

    Args:
        clip_s: Clip length in seconds, where the dataset's entry gives none; answers are clipped to it.
        lenient: Also read times as ``0:02`` and ``2 s``, and events written as JSON, which has to say what is
            seen and what is heard where the task asks for it. State it when you report such results.

    Raises:
        ValueError: If ``clip_s`` is not positive.
    """

    has_times = True

    def __init__(self, clip_s: int = 10, lenient: bool = False) -> None:
        if clip_s < 1:
            raise ValueError(f"clip_s is {clip_s}; a clip lasts at least one second")
        self.clip_s = clip_s
        self.lenient = lenient

    def length_s(self, sample: Sample) -> int:
        """Return the seconds of a clip in training: those of its dataset's entry, else the task's."""
        return int(sample.fields.get("clip_s", self.clip_s))


def in_whole_clip(event: EventSpan, window: ClipWindow, clip_s: int) -> EventSpan:
    """Return an event of a window at its time in the whole clip.

    Answers count in ``clip_s`` parts of what was shown, which are seconds where the window is as long as the
    clips of the training.
    """
    unit_s = (window.end_s - window.start_s) / clip_s
    start_s, end_s = (round(window.start_s + time * unit_s, 3) for time in (event.start_s, event.end_s))
    return EventSpan(event.name, start_s, min(end_s, window.whole_s))


def joined(events: Iterable[EventSpan], classes: Sequence[str]) -> tuple[EventSpan, ...]:
    """Return events by onset, those of one class that touch or overlap made one."""
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
    """Return an event of a whole clip at its time in a window, in the ``clip_s`` parts that answers count in.

    Its ends are rounded half up. ``None`` where less than half a part of it lies in the window.
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
    """Return the sample of one window of a clip, with a truth of its own.

    Args:
        sample: Stands for the whole clip.
        window: The window.
        events: Its true events, in seconds of the whole clip.
        fields: The annotation of the window.
        target: The text to be learnt.
        clip_s: Parts that answers count in.
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
