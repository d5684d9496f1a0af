"""Captions of four-second clips: ``avcap``."""

from __future__ import annotations

from crab_lightning.mini.world.item import Item, clip_item, clip_name
from crab_lightning.mini.world.phrases import a, at, join, name
from crab_lightning.mini.world.scenes import (
    Scene,
    Spans,
    balanced,
    hidden_sound,
    pick,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 4


def caption(scene: Scene) -> str:
    """Return one or two sentences about a scene.

    They name the place, the objects that are seen, which of these sound, and what is heard but not seen.
    """
    where = {"indoor": "Indoors, ", "outdoor": "Outdoors, "}.get(scene.background, "")
    drawn = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    parts = [f"{a(name(o))} {o.kind.verb if o.heard else 'is silent'} {at(o.place)}" for o in drawn]
    text = f"{where}{join(parts)}."
    unseen = [a(name(o)) for o in scene.objects if o.heard and not o.seen]
    if unseen:
        verb = "is" if len(unseen) == 1 else "are"
        text += f" {join(unseen)} {verb} heard but not seen."
    return ". ".join(s[:1].upper() + s[1:] for s in text.split(". "))


def build_avcap(split: str, index: int, seed: int) -> Item:
    """Return a clip with one to three objects, some of which sound, and its caption."""
    rng = rng_for(seed, "avcap", split, index)
    count = 1 + balanced(seed, index, 3, "avcap", split)
    drawn = [int(c) for c in rng.choice(len(CATEGORIES), count + 1, replace=False)]
    whole: Spans = ((0, CLIP_S),)
    heard: list[Spans] = [whole if rng.random() < 0.5 else () for _ in range(count)]
    objects = list(place_objects(rng, drawn[:count], duration_s=CLIP_S, heard=heard))
    if sum(map(bool, heard)) < 2 and rng.random() < 0.3:
        objects.append(hidden_sound(rng, drawn[count], whole))
    background = pick(rng, ("indoor", "outdoor"))
    scene = Scene(tuple(objects), CLIP_S, background, "objects", seed=int(rng.integers(1 << 30)))
    stem = clip_name(seed, "avcap", split, index)
    text = caption(scene)
    columns = {"video_id": stem, "label_content": text}
    return clip_item("avcap", split, index, stem, scene, columns, target=text, answer=text)
