"""Ten-second timelines of things seen, heard or both: ``ave``, ``unav``, ``avvp``."""

from __future__ import annotations

from dataclasses import replace

from crab_lightning.mini.world.item import Item, clip_files, clip_name
from crab_lightning.mini.world.phrases import both_spans, hear_spans, see_spans, sounding, tuples
from crab_lightning.mini.world.scenes import (
    Interval,
    Rng,
    Scene,
    balanced,
    hidden_sound,
    intersect,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 10
TIME_STEP_S = 2
"""Events start and end on multiples of this: two frames, one temporal patch of the vision encoder."""

_ENDING = "Therefore, the events and time range are"
_WHOLE: tuple[Interval, ...] = ((0, CLIP_S),)


def _span(rng: Rng) -> Interval:
    """One of the fifteen spans on the time grid, all equally likely."""
    steps = CLIP_S // TIME_STEP_S
    start, end = sorted(int(i) for i in rng.choice(steps + 1, 2, replace=False))
    return start * TIME_STEP_S, end * TIME_STEP_S


def _around(rng: Rng, span: Interval) -> tuple[tuple[Interval, ...], tuple[Interval, ...]]:
    """Return seen and heard intervals whose common part is ``span``; either may be the longer one."""
    start, end = span
    earlier = TIME_STEP_S * int(rng.integers(start // TIME_STEP_S + 1))
    later = end + TIME_STEP_S * int(rng.integers((CLIP_S - end) // TIME_STEP_S + 1))
    pairs: list[tuple[Interval, Interval]] = [
        ((0, CLIP_S), span),
        (span, (0, CLIP_S)),
        ((earlier, end), (start, later)),
        ((start, later), (earlier, end)),
    ]
    seen, heard = pairs[int(rng.integers(4))]
    return (seen,), (heard,)


def _others(rng: Rng, taken: int, count: int) -> list[int]:
    free = [c for c in range(len(CATEGORIES)) if c != taken]
    return [int(c) for c in rng.choice(free, count, replace=False)]


def build_ave(split: str, index: int, seed: int) -> Item:
    """One event both seen and heard, beside something only seen and, half the time, something only heard."""
    rng = rng_for(seed, "ave", split, index)
    category = balanced(seed, index, len(CATEGORIES), "ave", split)
    span = _span(rng)
    seen, heard = _around(rng, span)
    silent, unseen = _others(rng, category, 2)
    objects = list(
        place_objects(
            rng,
            [category, silent],
            duration_s=CLIP_S,
            seen=[seen, _WHOLE if rng.random() < 0.5 else (_span(rng),)],
            heard=[heard, ()],
        )
    )
    if rng.random() < 0.5:
        objects.append(hidden_sound(rng, unseen, (_span(rng),)))
    scene = Scene(tuple(objects), CLIP_S, "grey", "events", seed=int(rng.integers(1 << 30)))
    vid = clip_name(seed, "ave", split, index)
    files = clip_files("ave", vid, scene)
    event = CATEGORIES[category]
    target = (
        f"{see_spans(scene)} {hear_spans(scene)} {both_spans([(scene.objects[0], [span])])} "
        f"{_ENDING} <event>{event.ave}, {tuples([span])}</event>."
    )
    fields = {
        "video_path": f"{vid}.mp4",
        "audio_path": f"{vid}.mp3",
        "event": event.ave,
        "vid": vid,
        "start_time": span[0],
        "end_time": span[1],
        "label_content": target,
    }
    answer = f"{event.ave}, {tuples([span])}"
    return Item("ave", split, index, vid, fields, target, answer, (scene,), (scene,), files=files)


def build_unav(split: str, index: int, seed: int) -> Item:
    """One or two events both seen and heard; one of them may come twice."""
    rng = rng_for(seed, "unav", split, index)
    first = balanced(seed, index, len(CATEGORIES), "unav", split)
    second, unseen = _others(rng, first, 2)
    if rng.random() < 0.3:
        cut = TIME_STEP_S * int(rng.integers(1, 3))  # a first part to 2 or 4, a second from two steps later
        seen: tuple[Interval, ...] = _WHOLE
        heard: tuple[Interval, ...] = ((0, cut), (cut + 2 * TIME_STEP_S, CLIP_S))
    else:
        seen, heard = _around(rng, _span(rng))
    two = rng.random() < 0.5
    other_seen, other_heard = _around(rng, _span(rng)) if two else (_WHOLE, ())
    objects = list(
        place_objects(
            rng, [first, second], duration_s=CLIP_S, seen=[seen, other_seen], heard=[heard, other_heard]
        )
    )
    if not two and rng.random() < 0.5:
        objects.append(hidden_sound(rng, unseen, (_span(rng),)))
    scene = Scene(tuple(objects), CLIP_S, "sky", "events", seed=int(rng.integers(1 << 30)))
    events = [(o, intersect(o.seen, o.heard)) for o in sounding(scene)]
    events = sorted(((o, e) for o, e in events if e), key=lambda pair: (pair[1], pair[0].category))
    label = "".join(f"<event>{o.kind.unav}, {tuples(e)}</event>" for o, e in events)
    target = f"{see_spans(scene)} {hear_spans(scene)} {both_spans(events)} {_ENDING} {label}."
    vid = clip_name(seed, "unav", split, index)
    fields = {
        "video_path": f"{vid}.mp4",
        "audio_path": f"{vid}.mp3",
        "vid": vid,
        "original_label": label,
        "label_content": target,
    }
    files = clip_files("unav", vid, scene)
    return Item("unav", split, index, vid, fields, target, label, (scene,), (scene,), files=files)


def build_avvp(split: str, index: int, seed: int) -> Item:
    """Two or three things, each only seen, only heard, or both at times of their own."""
    rng = rng_for(seed, "avvp", split, index)
    first = balanced(seed, index, len(CATEGORIES), "avvp", split)
    categories = [first, *_others(rng, first, 2)]
    # What the three are: b both, v only seen, a only heard, - absent. At least one of each sense.
    roles = ("bva", "bv-", "ba-", "vab", "avb", "vb-", "ab-", "va-")[int(rng.integers(8))]
    drawn = [(c, r) for c, r in zip(categories, roles, strict=True) if r in "bv"]
    objects = list(
        place_objects(
            rng,
            [c for c, _ in drawn],
            duration_s=CLIP_S,
            seen=[(_span(rng),) for _ in drawn],
            heard=[(_span(rng),) if r == "b" else () for _, r in drawn],
        )
    )
    objects += [
        hidden_sound(rng, c, (_span(rng),)) for c, r in zip(categories, roles, strict=True) if r == "a"
    ]
    # A span that is the same in both senses is common in real clips: one time in three.
    objects = [
        replace(o, heard=o.seen) if o.seen and o.heard and rng.random() < 1 / 3 else o for o in objects
    ]
    scene = Scene(tuple(objects), CLIP_S, "grey", "events", seed=int(rng.integers(1 << 30)))
    in_sight = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    label = "".join(
        f"<visual_event>{o.kind.llp},{tuples(o.seen, between=',')}</visual_event>" for o in in_sight
    )
    label += "".join(
        f"<audio_event>{o.kind.llp},{tuples(o.heard, between=',')}</audio_event>" for o in sounding(scene)
    )
    target = f"{see_spans(scene)} {hear_spans(scene)} {label}"
    vid = clip_name(seed, "avvp", split, index)
    fields = {
        "video_path": f"{vid}.mp4",
        "audio_path": f"{vid}.mp3",
        "filename": f"{vid}_0_10",
        "vid": vid,
        "event": label,
        "label_content": target,
    }
    files = clip_files("avvp", vid, scene)
    return Item("avvp", split, index, vid, fields, target, label, (scene,), (scene,), files=files)
