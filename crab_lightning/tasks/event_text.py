"""Events and their spans in a model's answer, for event localization and event parsing.

Three spellings of an event with a span are in use, and all are read: ``<event>NAME, (s e)(s e)</event>``,
``<event>NAME</event> ... <range>s,e</range>``, and ``event:NAME start_time:s end_time:e``. Parsing writes
``<visual>NAME,(s e),(s e)</visual>`` and ``<audio>...</audio>``, with or without ``_event`` in the tag names.
What untrained models write besides is read under the option ``lenient`` of the event tasks alone.
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

# A number is cut off from longer digit runs and from a minus sign, so that neither is read in part.
_NUMBER = r"(?<![\d.])(\d{1,9}(?:\.\d{1,9})?)(?!\d)"
_BETWEEN = r"(?:\s*(?:,|-|–|to)\s*|\s+)"
_PAIR = re.compile(rf"(?<![-–]){_NUMBER}{_BETWEEN}{_NUMBER}", re.IGNORECASE)
_INTERVAL = re.compile(rf"[(\[]\s*{_NUMBER}{_BETWEEN}{_NUMBER}\s*[)\]]", re.IGNORECASE)
_COMPACT_START = re.compile(r"event\s{0,9}:", re.IGNORECASE)
_COMPACT_SPAN = re.compile(
    rf"start[_ ]time\s{{0,9}}:\s{{0,9}}{_NUMBER}[\s,;]{{1,9}}end[_ ]time\s{{0,9}}:\s{{0,9}}{_NUMBER}",
    re.IGNORECASE,
)

_ROUNDED_S = 0.5
"""Lengths of clips are often rounded."""
ANY_LENGTH_S = 10**9
"""A clip length that cuts nothing off."""

_JOINING = re.compile(r"^(?:\s|[,;&]|\band\b)+", re.IGNORECASE)
"""What joins two intervals of one event, and stands before the name of another."""

Span = tuple[int, int]


@dataclass(frozen=True)
class EventSpan:
    """One event over one half-open span ``[start_s, end_s)``.

    Whole seconds, as models write them; of a long clip that was asked in windows, any seconds.
    """

    name: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> range:
        """The whole seconds that the span fills, its ends rounded half up."""
        return range(math.floor(self.start_s + 0.5), math.floor(self.end_s + 0.5))


@dataclass(frozen=True)
class ModalEvents:
    """What is seen and what is heard: maximal runs, sorted by class and onset."""

    visual: tuple[EventSpan, ...] = ()
    audio: tuple[EventSpan, ...] = ()


def whole_span(start: float, end: float, clip_s: int) -> Span | None:
    """Round a span half up to whole seconds and clip it to the clip; ``None`` when nothing is left."""
    first, last = (min(math.floor(time + 0.5), clip_s) for time in (start, end))
    return (first, last) if first < last else None


def _spans(pattern: re.Pattern[str], text: str, clip_s: int) -> list[Span]:
    found = (whole_span(float(m[1]), float(m[2]), clip_s) for m in pattern.finditer(text))
    return [span for span in found if span is not None]


def read_events(text: str, clip_s: int) -> list[EventSpan]:
    """Read events in the order of the text, names as they are written.

    An event body that ends in intervals carries its own spans; its name is what stands before them, commas
    and parentheses included. The remaining event bodies and the range bodies are paired in order. Only a text
    with neither tag is searched for the compact form.

    Args:
        text: A model's answer or an annotation.
        clip_s: Length of the clip; spans are clipped to it.

    Returns:
        One entry per span that covers at least a second of the clip.
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


def says_nothing(text: str) -> bool:
    """Tell whether a text without events says that there are none, with empty ``<event>`` tags."""
    return bool(_EMPTY_EVENT.search(cut_end_tokens(text)))


def _split_inline(body: str, clip_s: int) -> tuple[str, list[Span] | None]:
    """Split ``NAME, (s e)(s e)`` into name and spans; no spans when the body does not end in an interval."""
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
    """Return the class of each one-second segment.

    Background is ``len(classes)``, an event of unknown name -1. An event never overwrites a segment that an
    earlier one has taken.

    Args:
        events: Events, first come first served.
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
    """Return modality (``visual`` or ``audio``), opening tag name and body of each complete tag pair."""
    names = ("visual_event", "audio_event", "visual", "audio")
    return [
        (opened.removesuffix("_event"), opened, body)
        for _, opened, closed, body in tag_bodies(cut_end_tokens(text), *names)
        if opened.removesuffix("_event") == closed.removesuffix("_event")
    ]


def read_modal_events(text: str, clip_s: int) -> list[tuple[str, EventSpan]]:
    """Read what is seen and heard: modality and span, in the order of the text, names as they are written.

    A name ends at its first comma, and what stands between two intervals is the name of the next ones, unless
    it only joins them. A body without an interval is dropped, as is a stretch without a name.

    Args:
        text: A model's answer or an annotation.
        clip_s: Length of the clip; spans are clipped to it.
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
    """Return which class fills which second, a row of ``clip_s`` per class; unknown names have no row."""
    rows = [[False] * clip_s for _ in classes]
    for event in events:
        index = class_index(event.name, classes)
        if index is not None:
            for second in event.seconds:
                rows[index][second] = True
    return rows


def merged_runs(events: Iterable[EventSpan], classes: Sequence[str], clip_s: int) -> tuple[EventSpan, ...]:
    """Return the maximal runs of known classes, sorted by class and onset, named as in ``classes``."""
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
    """Return the events that end behind a clip, as text."""
    return [f"{e.name} ({e.start_s:g} {e.end_s:g})" for e in events if e.end_s > clip_s]


def unfilled(text: str) -> list[str]:
    """Return the intervals of an annotation that fill no whole second, as written: ``(8 6)``."""
    intervals = _INTERVAL.finditer(text)
    return [m[0] for m in intervals if whole_span(float(m[1]), float(m[2]), ANY_LENGTH_S) is None]


def cut_off_remarks(sample: Sample, found: Iterable[EventSpan], clip_s: int) -> list[str]:
    """Say which annotated events do not lie in the clip, for ``data check``."""
    remarks = [
        f"event {event} ends after the clip of {clip_s} s; the part after the clip is not scored. "
        "Correct the times, or set clip_s in the dataset's entry"
        for event in behind(found, clip_s)
    ]
    duration_s = sample.fields.get("duration_s")
    remarks += [
        f"interval {interval} of the annotation fills no whole second, so it is not scored. Correct the times"
        for interval in unfilled(str(sample.fields.get("annotation", "")))
    ]
    for event in sample.fields.get("events_s") or ():
        if float(event["end_s"]) <= float(event["start_s"]):
            remarks.append(
                f"event {event['label']} of events_s ends at {event['end_s']} s, not after its start, "
                f"{event['start_s']} s, so no answer can match it. Correct the times"
            )
        if duration_s and float(event["end_s"]) > float(duration_s) + _ROUNDED_S:
            remarks.append(
                f"event {event['label']} ends at {event['end_s']} s, the clip at {duration_s} s. Correct one"
            )
    return remarks


_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):([0-5]\d(?:\.\d{1,3})?)(?![\d:])")
_UNIT = re.compile(r"(\d)[ \t]?(?:seconds?|secs?|s)\b", re.IGNORECASE)
_NAMES = ("event", "name", "label", "class", "category")
_STARTS = ("start", "start_s", "start_time", "onset", "begin")
_ENDS = ("end", "end_s", "end_time", "offset", "stop")
_SPANS = ("range", "span", "time", "timestamp", "interval", "segment")


def loosened_times(text: str) -> str:
    """Return a text whose times are plain seconds: ``0:02`` and ``2 s`` become ``2``.

    >>> loosened_times("<range>0:02 - 0:05.5</range>, 6s-8 seconds")
    '<range>2 - 5.5</range>, 6-8'
    """
    text = _CLOCK.sub(lambda m: f"{60 * int(m[1]) + float(m[2]):g}", text)
    return _UNIT.sub(r"\1", text)


def json_events(text: str, clip_s: int) -> list[tuple[str | None, EventSpan]]:
    """Read events out of the JSON that an answer holds.

    Args:
        text: A model's answer; what stands around the JSON is passed over.
        clip_s: Length of the clip; spans are clipped to it.

    Returns:
        ``visual``, ``audio`` or ``None`` where neither is said, and the event; empty without such JSON.
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
    """Walk to the objects that may be events; a key or field that says ``visual`` or ``audio`` counts."""
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
    """Return a time as seconds; ``None`` for anything else."""
    if isinstance(value, str):
        value = loosened_times(value).strip()
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
