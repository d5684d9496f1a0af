"""Ten-second clips with events that are seen, heard or both: ``ave``, ``unav`` and ``avvp``."""

from __future__ import annotations

from dataclasses import replace

from crab_lightning.mini.world.item import Item, clip_item, clip_name
from crab_lightning.mini.world.phrases import both_spans, hear_spans, see_spans, sounding, tuples
from crab_lightning.mini.world.scenes import (
    Interval,
    Rng,
    Scene,
    Spans,
    balanced,
    hidden_sound,
    intersect,
    other_categories,
    pick,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 10
TIME_STEP_S = 2
"""Events start and end at multiples of this.

It is the time of two sampled frames, which the vision encoder reads as one patch.
"""

_ENDING = "Therefore, the events and time range are"
_WHOLE: Spans = ((0, CLIP_S),)


def _span(rng: Rng) -> Interval:
    """Return one of the fifteen intervals that start and end at multiples of the step."""
    steps = CLIP_S // TIME_STEP_S
    start, end = sorted(int(i) for i in rng.choice(steps + 1, 2, replace=False))
    return start * TIME_STEP_S, end * TIME_STEP_S


def _around(rng: Rng, span: Interval) -> tuple[Spans, Spans]:
    """Return when a thing is seen and when it is heard. At the times in ``span`` it is both."""
    start, end = span
    earlier = TIME_STEP_S * int(rng.integers(start // TIME_STEP_S + 1))
    later = end + TIME_STEP_S * int(rng.integers((CLIP_S - end) // TIME_STEP_S + 1))
    longer, shorter = ((0, CLIP_S),), (span,)
    before, after = ((earlier, end),), ((start, later),)
    pairs = ((longer, shorter), (shorter, longer), (before, after), (after, before))
    return pick(rng, pairs)


def build_ave(split: str, index: int, seed: int) -> Item:
    """Return a question about the one event that is both seen and heard.

    Another thing is seen but never heard, and in half of the clips a third one is heard but never seen.
    """
    rng = rng_for(seed, "ave", split, index)
    category = balanced(seed, index, len(CATEGORIES), "ave", split)
    span = _span(rng)
    seen, heard = _around(rng, span)
    silent, unseen = other_categories(rng, category, 2)
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
    event = CATEGORIES[category].ave
    answer = f"{event}, {tuples([span])}"
    target = (
        f"{see_spans(scene)} {hear_spans(scene)} {both_spans([(scene.objects[0], [span])])} "
        f"{_ENDING} <event>{answer}</event>."
    )
    columns = {
        "event": event,
        "vid": vid,
        "start_time": span[0],
        "end_time": span[1],
        "label_content": target,
    }
    return clip_item("ave", split, index, vid, scene, columns, target=target, answer=answer)


def build_unav(split: str, index: int, seed: int) -> Item:
    """Return a question about the one or two events that are both seen and heard; one may occur twice."""
    rng = rng_for(seed, "unav", split, index)
    first = balanced(seed, index, len(CATEGORIES), "unav", split)
    second, unseen = other_categories(rng, first, 2)
    if rng.random() < 0.3:
        cut = TIME_STEP_S * int(rng.integers(1, 3))  # the first part ends here, the second starts 4 s later
        seen: Spans = _WHOLE
        heard: Spans = ((0, cut), (cut + 2 * TIME_STEP_S, CLIP_S))
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
    scene = Scene(tuple(objects), CLIP_S, "outdoor", "events", seed=int(rng.integers(1 << 30)))
    events = [(o, intersect(o.seen, o.heard)) for o in sounding(scene)]
    events = sorted(((o, e) for o, e in events if e), key=lambda pair: (pair[1], pair[0].category))
    label = "".join(f"<event>{o.kind.unav}, {tuples(e)}</event>" for o, e in events)
    target = f"{see_spans(scene)} {hear_spans(scene)} {both_spans(events)} {_ENDING} {label}."
    vid = clip_name(seed, "unav", split, index)
    columns = {"vid": vid, "original_label": label, "label_content": target}
    return clip_item("unav", split, index, vid, scene, columns, target=target, answer=label)


def build_avvp(split: str, index: int, seed: int) -> Item:
    """Return a question about two or three things, each of which is only seen, only heard, or both."""
    rng = rng_for(seed, "avvp", split, index)
    first = balanced(seed, index, len(CATEGORIES), "avvp", split)
    categories = [first, *other_categories(rng, first, 2)]
    # One letter for each thing: b seen and heard, v only seen, a only heard, - absent.
    roles = pick(rng, ("bva", "bv-", "ba-", "vab", "avb", "vb-", "ab-", "va-"))
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
    # In real clips a thing is often seen and heard at the same times, so here it is in a third of the cases.
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
    columns = {"filename": f"{vid}_0_10", "vid": vid, "event": label, "label_content": target}
    return clip_item("avvp", split, index, vid, scene, columns, target=target, answer=label)
