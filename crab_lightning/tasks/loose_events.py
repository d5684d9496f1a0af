"""Events as untrained models write them, read under the option ``lenient`` of the event tasks alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from crab_lightning.tasks.event_text import EventSpan, whole_span

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
