"""Import UnAV-100 (task ``unav``): dense events in clips of 10 to 60 s, with times in tenths of the clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crab_lightning.builder.rows import Imported, Importer, Settings
from crab_lightning.builder.source import AnnotationError, Source, read_json

PARTS = 10
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def read(source: Source, settings: Settings) -> Imported:
    """Read all clips, and keep the training clips whose events are stable in time.

    The paper keeps clips with "stable temporal dynamics", but gives no rule. Here, a clip is stable under two
    conditions: each of its events lasts at least ``shortest_event`` tenths of the clip after rounding to
    tenths, and its events start or end at no more than ``most_changes`` moments inside the clip.
    """
    found = Imported()
    path = source.annotation("unav100_annotations.json")
    content = read_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise AnnotationError(f"{path} has no object 'database'. Is it another file of the same name?")
    for vid, clip in database.items():
        try:
            split = _SPLITS[clip["subset"]]
            duration, events = float(clip["duration"]), _events(clip)
        except (KeyError, TypeError, ValueError) as err:
            raise AnnotationError(
                f"{path}, clip {vid}: {err!r}; duration, subset and annotations expected"
            ) from err
        if split == "val":
            if settings.val != "train":
                continue
            split = "train"
        _add(found, source, settings, vid, split, duration, events)
    return found


def _events(clip: dict[str, Any]) -> list[tuple[str, float, float]]:
    return [(str(e["label"]), float(e["segment"][0]), float(e["segment"][1])) for e in clip["annotations"]]


def _add(
    found: Imported,
    source: Source,
    settings: Settings,
    vid: str,
    split: str,
    duration: float,
    events: Sequence[tuple[str, float, float]],
) -> None:
    tenths = [(name, *tenth_span(start, end, duration)) for name, start, end in events]
    if split == "train" and not settings.all_clips:
        if any(end - start < settings.shortest_event for _, start, end in tenths):
            note = f"training clips left out: an event lasts less than {settings.shortest_event} tenths"
            found.notes[note] += 1
            return
        changes = {t for _, start, end in tenths for t in (start, end) if 0 < t < PARTS}
        if settings.most_changes is not None and len(changes) > settings.most_changes:
            found.notes[f"training clips left out: more than {settings.most_changes} changes inside"] += 1
            return
    blinks = sum(start == end for _, start, end in tenths)
    if split == "test" and blinks:
        # Keep every test clip: the text shows one tenth, and scores use the true times.
        tenths = [
            (n, *((min(s, PARTS - 1), min(s, PARTS - 1) + 1) if s == e else (s, e))) for n, s, e in tenths
        ]
        found.notes["test: events without a length after rounding, which are shown as one tenth"] += blinks
        blinks = 0
    label = event_tags(tenths)
    if not label:
        found.reject("unav", split, vid, "no event is left after rounding to tenths of the clip")
        return
    if blinks:
        found.notes["train: events without a length after rounding, which are in no text"] += blinks
    times = [{"label": name, "start_s": start, "end_s": end} for name, start, end in events]
    values: dict[str, Any] = {"vid": vid, "original_label": label}
    if split == "train":
        values["label_content"] = label
    values |= {"duration_s": duration, "events_s": times}
    found.add_clip("unav", split, vid, source.media(vid), vid, values)


def tenth_span(start_s: float, end_s: float, duration_s: float) -> tuple[int, int]:
    """Return start and end in tenths of a clip, rounded to the nearest tenth as in the released file.

    Args:
        start_s: Start in seconds.
        end_s: End in seconds.
        duration_s: Length of the clip in seconds.
    """
    first, last = (math.floor(PARTS * t / duration_s + 0.5) for t in (start_s, end_s))
    return first, min(last, PARTS)


def event_tags(events: Sequence[tuple[str, int, int]]) -> str:
    """Return ``<event>NAME, (s e)(s e)</event>`` for each class, ordered by the first start of the class.

    Args:
        events: Class, start and end of each event; events without a length are left out.
    """
    spans: dict[str, list[tuple[int, int]]] = {}
    for name, start, end in sorted(events, key=lambda event: event[1:]):
        if start < end and (start, end) not in spans.setdefault(name, []):
            spans[name].append((start, end))
    return "".join(
        f"<event>{name}, {''.join(f'({s} {e})' for s, e in times)}</event>"
        for name, times in spans.items()
        if times
    )


IMPORTER = Importer(
    title="UnAV-100",
    tasks=("unav",),
    read=read,
    expected={("unav", "train"): 6489, ("unav", "test"): 2167},
    paper_k=4.9,
    access="open, Hugging Face and Drive (ttgeng233/UnAV), MIT",
    files="unav100_annotations.json; <id>.mp4",
    options=("val", "shortest_event", "most_changes", "all_clips"),
)
