"""Reads events and their spans from a model's answer, for event localization and event parsing.

There are three forms of an event with a span, and all are read: ``<event>NAME, (s e)(s e)</event>``,
``<event>NAME</event> ... <range>s,e</range>``, and ``event:NAME start_time:s end_time:e``. Event parsing uses
``<visual>NAME,(s e),(s e)</visual>`` and ``<audio>...</audio>``, with or without ``_event`` in the tag names.
Other forms, which untrained models write, are read only with the option ``lenient`` of the event tasks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crab_lightning.structures import Sample
from crab_lightning.tasks.answers import class_index, cut_end_tokens, tag_bodies

# A number must not be a part of a longer number or follow a minus sign.
_NUMBER = r"(?<![\d.])(\d{1,9}(?:\.\d{1,20})?)(?!\d)"
_BETWEEN = r"(?:\s*(?:,|-|–|to)\s*|\s+)"
_PAIR = re.compile(rf"(?<![-–]){_NUMBER}{_BETWEEN}{_NUMBER}", re.IGNORECASE)
_INTERVAL = re.compile(rf"[(\[]\s*{_NUMBER}{_BETWEEN}{_NUMBER}\s*[)\]]", re.IGNORECASE)
_COMPACT_START = re.compile(r"event\s{0,9}:", re.IGNORECASE)
_COMPACT_SPAN = re.compile(
    rf"start[_ ]time\s{{0,9}}:\s{{0,9}}{_NUMBER}[\s,;]{{1,9}}end[_ ]time\s{{0,9}}:\s{{0,9}}{_NUMBER}",
    re.IGNORECASE,
)

_ROUNDED_S = 0.5
"""Tolerance for the end of a clip, because lengths of clips are often rounded."""
ANY_LENGTH_S = 10**9
"""A clip length with which no event is cut."""

_JOINING = re.compile(r"^(?:\s|[,;&]|\band\b)+", re.IGNORECASE)
"""Text between two intervals of one event, or before the name of the next event."""

Span = tuple[int, int]


@dataclass(frozen=True)
class EventSpan:
    """One event with a half-open span ``[start_s, end_s)``.

    The times are whole seconds, as models write them; only in a long clip that is tested by windows they may
    have decimals.
    """

    name: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> range:
        """The whole seconds of the span, after its ends are rounded half up."""
        return range(math.floor(self.start_s + 0.5), math.floor(self.end_s + 0.5))


@dataclass(frozen=True)
class ModalEvents:
    """The seen and the heard events, sorted by class and start; touching events of a class are joined."""

    visual: tuple[EventSpan, ...] = ()
    audio: tuple[EventSpan, ...] = ()


def whole_span(start: float, end: float, clip_s: int) -> Span | None:
    """Return a span rounded half up to whole seconds and cut to the clip; ``None`` if nothing is left."""
    first, last = (min(math.floor(time + 0.5), clip_s) for time in (start, end))
    return (first, last) if first < last else None


def _spans(pattern: re.Pattern[str], text: str, clip_s: int) -> list[Span]:
    found = (whole_span(float(m[1]), float(m[2]), clip_s) for m in pattern.finditer(text))
    return [span for span in found if span is not None]


def read_events(text: str, clip_s: int) -> list[EventSpan]:
    """Read events in the order of the text, with the names as written.

    If the body of an ``<event>`` tag ends with intervals, these are the spans, and the text before them is
    the name. The other event bodies get the spans of the ``<range>`` tags in order. The form without tags is
    read only if the text has neither tag.

    Args:
        text: A model's answer or an annotation.
        clip_s: Length of the clip; spans are clipped to it.

    Returns:
        One event for each span that, after rounding, has at least one second inside the clip.
    """
    text = cut_end_tokens(text)
    own: list[tuple[str, list[Span] | None]] = []
    ranges: list[list[Span]] = []
    for _, opened, closed, body in tag_bodies(text, "event", "range"):
        if opened != closed:
            continue
        if opened == "range":
            ranges.append(_spans(_PAIR, body, clip_s))
        else:
            own.append(_split_inline(body, clip_s))
    if not own and not ranges and not re.search(r"</?(?:event|range)>", text, re.IGNORECASE):
        own = _compact(text, clip_s)
    waiting = iter(ranges)
    events = []
    for name, spans in own:
        for start, end in next(waiting, []) if spans is None else spans:
            events.append(EventSpan(name, start, end))
    return events


_EMPTY_EVENT = re.compile(r"<event>\s*</event>", re.IGNORECASE)


def written_s(seconds: float) -> str:
    """Return a time as text with at most three decimals."""
    return str(round(seconds, 3))


def timeless(text: str) -> list[str]:
    """Return the bodies of ``<event>`` tags in an annotation for which there are no times."""
    text = cut_end_tokens(text)
    pairs = [(o, body) for _, o, closed, body in tag_bodies(text, "event", "range") if o == closed]
    ranges = sum(opened == "range" for opened, _ in pairs)
    without = [body for opened, body in pairs if opened == "event" and not _INTERVAL.search(body)]
    return [body for body in without[ranges:] if body.strip()]


def says_nothing(text: str) -> bool:
    """Return whether a text contains empty ``<event>`` tags, which mean that there is no event."""
    return bool(_EMPTY_EVENT.search(cut_end_tokens(text)))


def _split_inline(body: str, clip_s: int) -> tuple[str, list[Span] | None]:
    """Split ``NAME, (s e)(s e)`` into name and spans; ``None`` if the body does not end with an interval."""
    intervals = list(_INTERVAL.finditer(body))
    end = len(body.rstrip())
    first = None
    for interval in reversed(intervals):
        gap = body[interval.end() : end]
        if gap.strip() not in ("", ",") or (first is None and gap.strip()):
            break
        first, end = interval, interval.start()
    if first is None:
        return body.strip(), None
    return body[: first.start()].rstrip().removesuffix(",").strip(), _spans(
        _INTERVAL, body[first.start() :], clip_s
    )


def _compact(text: str, clip_s: int) -> list[tuple[str, list[Span] | None]]:
    """Read ``event:NAME start_time:s end_time:e``; the name begins after the nearest ``event:``."""
    found: list[tuple[str, list[Span] | None]] = []
    position = 0
    for span in _COMPACT_SPAN.finditer(text):
        starts = list(_COMPACT_START.finditer(text, position, span.start()))
        position = span.end()
        if starts and (name := text[starts[-1].end() : span.start()].strip(" \t\r\n,;")):
            whole = whole_span(float(span[1]), float(span[2]), clip_s)
            found.append((name, [whole] if whole else []))
    return found


def segment_classes(events: Iterable[EventSpan], classes: Sequence[str], clip_s: int) -> list[int]:
    """Return the class index of each one-second segment.

    The index of background is ``len(classes)``, and that of an event with an unknown name is -1. If events
    overlap, a segment belongs to the first of them.

    Args:
        events: Events inside the clip.
        classes: Event classes in index order.
        clip_s: Number of segments.
    """
    segments: list[int | None] = [None] * clip_s
    for event in events:
        index = class_index(event.name, classes)
        for second in event.seconds:
            if segments[second] is None:
                segments[second] = -1 if index is None else index
    return [len(classes) if segment is None else segment for segment in segments]


def modal_blocks(text: str) -> list[tuple[str, str, str]]:
    """Return the modality (``visual`` or ``audio``), the opening tag's name and the body of each tag pair."""
    names = ("visual_event", "audio_event", "visual", "audio")
    return [
        (opened.removesuffix("_event"), opened, body)
        for _, opened, closed, body in tag_bodies(cut_end_tokens(text), *names)
        if opened.removesuffix("_event") == closed.removesuffix("_event")
    ]


def read_modal_events(text: str, clip_s: int) -> list[tuple[str, EventSpan]]:
    """Read seen and heard events in the order of the text, with the names as written.

    A name ends at its first comma. Text between two intervals is the name of the next intervals, unless it is
    only a comma, a semicolon or "and". A body without an interval and an interval without a name are dropped.

    Args:
        text: A model's answer or an annotation.
        clip_s: Length of the clip; spans are cut to it.

    Returns:
        The modality and the event of each span.
    """
    events = []
    for modality, _, body in modal_blocks(text):
        name, before = "", 0
        for interval in _INTERVAL.finditer(body):
            text_before = body[before : interval.start()]
            if before:
                text_before = _JOINING.sub("", text_before)
            if not before or text_before.strip():
                name = text_before.split(",", 1)[0].strip()
            before = interval.end()
            if name and (span := whole_span(float(interval[1]), float(interval[2]), clip_s)):
                events.append((modality, EventSpan(name, *span)))
    return events


def rasterise(events: Iterable[EventSpan], classes: Sequence[str], clip_s: int) -> list[list[bool]]:
    """Return for each class a row of ``clip_s`` values, True in the seconds of its events.

    Events with an unknown name are left out.
    """
    rows = [[False] * clip_s for _ in classes]
    for event in events:
        index = class_index(event.name, classes)
        if index is not None:
            for second in event.seconds:
                rows[index][second] = True
    return rows


def merged_runs(events: Iterable[EventSpan], classes: Sequence[str], clip_s: int) -> tuple[EventSpan, ...]:
    """Return events with the names in ``classes``, sorted by class and start; touching events are joined.

    Events with an unknown name are left out.
    """
    runs = []
    for name, row in zip(classes, rasterise(events, classes, clip_s), strict=True):
        start = None
        for second, filled in enumerate([*row, False]):
            if filled and start is None:
                start = second
            elif not filled and start is not None:
                runs.append(EventSpan(name, start, second))
                start = None
    return tuple(runs)


def behind(events: Iterable[EventSpan], clip_s: int) -> list[str]:
    """Return the events that end after a clip, as texts."""
    return [f"{e.name} ({e.start_s:g} {e.end_s:g})" for e in events if e.end_s > clip_s]


def unfilled(text: str) -> list[str]:
    """Return the intervals of an annotation that are empty after rounding, as written: ``(8 6)``."""
    intervals = _INTERVAL.finditer(text)
    return [m[0] for m in intervals if whole_span(float(m[1]), float(m[2]), ANY_LENGTH_S) is None]


def cut_off_remarks(sample: Sample, found: Iterable[EventSpan], clip_s: int) -> list[str]:
    """Return remarks on annotated events that are not inside the clip or have no length.

    Args:
        sample: The sample.
        found: The annotated events, not cut to the clip.
        clip_s: Length of the clip.
    """
    remarks = [
        f"the event {event} ends after the clip of {clip_s} s; the part after the clip is not scored. "
        "Correct the times, or set clip_s in the dataset's entry"
        for event in behind(found, clip_s)
    ]
    duration_s = sample.fields.get("duration_s")
    remarks += [
        f"the interval {interval} of the annotation contains no whole second, so it is not scored. Correct "
        "the times"
        for interval in unfilled(str(sample.fields.get("annotation", "")))
    ]
    for event in sample.fields.get("events_s") or ():
        if float(event["end_s"]) <= float(event["start_s"]):
            remarks.append(
                f"the event {event['label']} of events_s ends at {event['end_s']} s, which is not after its "
                f"start, {event['start_s']} s, so no answer can match it. Correct the times"
            )
        if duration_s and float(event["end_s"]) > float(duration_s) + _ROUNDED_S:
            remarks.append(
                f"the event {event['label']} ends at {event['end_s']} s, but the clip ends at {duration_s} s."
                " Correct one of the two"
            )
    return remarks


_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):([0-5]\d(?:\.\d{1,3})?)(?![\d:])")
_UNIT = re.compile(r"(\d)[ \t]?(?:seconds?|secs?|s)\b", re.IGNORECASE)
_NAMES = ("event", "name", "label", "class", "category")
_STARTS = ("start", "start_s", "start_time", "onset", "begin")
_ENDS = ("end", "end_s", "end_time", "offset", "stop")
_SPANS = ("range", "span", "time", "timestamp", "interval", "segment")


def loosened_times(text: str) -> str:
    """Return a text in which times are plain seconds: ``0:02`` and ``2 s`` become ``2``.

    >>> loosened_times("<range>0:02 - 0:05.5</range>, 6s-8 seconds")
    '<range>2 - 5.5</range>, 6-8'
    """
    text = _CLOCK.sub(lambda m: f"{60 * int(m[1]) + float(m[2]):g}", text)
    return _UNIT.sub(r"\1", text)


def json_events(text: str, clip_s: int) -> list[tuple[str | None, EventSpan]]:
    """Read events from the JSON in an answer.

    Args:
        text: A model's answer; text around the JSON is ignored.
        clip_s: Length of the clip; spans are cut to it.

    Returns:
        For each event its modality (``visual``, ``audio``, or ``None`` if none is given) and the event.
    """
    opening = min((place for sign in "[{" if (place := text.find(sign)) >= 0), default=-1)
    closing = max(text.rfind("]"), text.rfind("}"))
    if opening < 0 or closing < opening:
        return []
    try:
        found = json.loads(text[opening : closing + 1])
    except (ValueError, RecursionError):
        return []
    events = []
    for modality, entry in _entries(found, None):
        name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), None)
        start, end = (next((entry[key] for key in keys if key in entry), None) for keys in (_STARTS, _ENDS))
        span = next((entry[key] for key in _SPANS if isinstance(entry.get(key), list)), None)
        if start is None and span is not None and len(span) == 2:
            start, end = span
        first, last = _seconds(start), _seconds(end)
        if name is None or first is None or last is None:
            continue
        if (whole := whole_span(first, last, clip_s)) is not None:
            events.append((modality, EventSpan(name, *whole)))
    return events


def _entries(value: Any, modality: str | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the JSON objects that may be events, with the modality that a key or a field names."""
    if isinstance(value, list):
        for item in value:
            yield from _entries(item, modality)
    elif isinstance(value, dict):
        own = str(value.get("modality", "")).lower().removesuffix("_event")
        modality = own if own in ("visual", "audio") else modality
        yield modality, value
        for key, item in value.items():
            said = str(key).lower().removesuffix("s").removesuffix("_event")
            yield from _entries(item, said if said in ("visual", "audio") else modality)


def _seconds(value: Any) -> float | None:
    """Return a time in seconds; ``None`` if the value is not a time."""
    if isinstance(value, str):
        value = loosened_times(value).strip()
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
