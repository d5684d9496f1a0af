"""Captions: ``avcap``."""

from __future__ import annotations

from crab_lightning.mini.world.item import Item, clip_files, clip_name
from crab_lightning.mini.world.phrases import a, at, join, name
from crab_lightning.mini.world.scenes import Interval, Scene, balanced, hidden_sound, place_objects, rng_for
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 4


def caption(scene: Scene) -> str:
    """Return one or two sentences: where it is, who is there, who sounds, what is only heard."""
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
    """One to three things, some of which sound."""
    rng = rng_for(seed, "avcap", split, index)
    count = 1 + balanced(seed, index, 3, "avcap", split)
    drawn = [int(c) for c in rng.choice(len(CATEGORIES), count + 1, replace=False)]
    whole: tuple[Interval, ...] = ((0, CLIP_S),)
    heard: list[tuple[Interval, ...]] = [whole if rng.random() < 0.5 else () for _ in range(count)]
    objects = list(place_objects(rng, drawn[:count], duration_s=CLIP_S, heard=heard))
    if sum(map(bool, heard)) < 2 and rng.random() < 0.3:
        objects.append(hidden_sound(rng, drawn[count], whole))
    background = ("indoor", "outdoor")[int(rng.integers(2))]
    scene = Scene(tuple(objects), CLIP_S, background, "objects", seed=int(rng.integers(1 << 30)))
    stem = clip_name(seed, "avcap", split, index)
    text = caption(scene)
    fields = {
        "video_path": f"{stem}.mp4",
        "audio_path": f"{stem}.mp3",
        "video_id": stem,
        "label_content": text,
    }
    files = clip_files("avcap", stem, scene)
    return Item("avcap", split, index, stem, fields, text, text, (scene,), (scene,), files=files)
