"""Four-second clips with two candidates: ``a2v`` and ``v2a``.

``a2v`` asks which of two videos shows what one sound plays, ``v2a`` which of two sounds comes from what one
video shows.
"""

from __future__ import annotations

from crab_lightning.mini.world.item import FileKind, Item, MediaFile, clip_name
from crab_lightning.mini.world.phrases import a
from crab_lightning.mini.world.scenes import Rng, Scene, balanced, hidden_sound, place_objects, rng_for
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 4
_ANSWERS = ("one", "two")
_EXTENSION = {"video": "mp4", "audio": "mp3"}
_SENSE = {"video": "see", "audio": "hear"}


def _scene(rng: Rng, kind: FileKind, category: int) -> Scene:
    """Return a scene that shows a category in a ``video``, or plays it in an ``audio`` file."""
    if kind == "video":
        objects = place_objects(rng, [category], duration_s=CLIP_S)
    else:
        objects = (hidden_sound(rng, category, ((0, CLIP_S),)),)
    return Scene(objects, CLIP_S, "grey", "objects", seed=int(rng.integers(1 << 30)))


def build_matching(dataset: str, split: str, index: int, seed: int) -> Item:
    """Return the question which of two candidates belongs to a query of the other kind."""
    rng = rng_for(seed, dataset, split, index)
    correct = balanced(seed, index, 2, dataset, split)
    category = balanced(seed, index, len(CATEGORIES), dataset, split, "query")
    other = (category + 1 + int(rng.integers(len(CATEGORIES) - 1))) % len(CATEGORIES)
    pair = [category, other] if correct == 0 else [other, category]
    query: FileKind
    candidate: FileKind
    query, candidate = ("audio", "video") if dataset == "a2v" else ("video", "audio")
    files = []
    for kind, part, shown in (
        (query, query, category),
        (candidate, "first", pair[0]),
        (candidate, "second", pair[1]),
    ):
        name = f"{clip_name(seed, dataset, split, index, part)}.{_EXTENSION[kind]}"
        files.append(MediaFile(f"{dataset}/{kind}/{name}", kind, _scene(rng, kind, shown)))
    first, second = (CATEGORIES[c].name for c in pair)
    asked, answer = CATEGORIES[category].name, _ANSWERS[correct]
    target = (
        f"I {_SENSE[query]} {a(asked)}. I {_SENSE[candidate]} {a(first)} first and {a(second)} second. "
        f"The {asked} is {('first', 'second')[correct]}. <answer>{answer}</answer>."
    )
    names = [file.path.rpartition("/")[2] for file in files]
    fields = {
        f"{query}_path": names[0],
        f"{candidate}1_path": names[1],
        f"{candidate}2_path": names[2],
        f"correct_{candidate}": answer,
        f"{query}_event": asked,
        f"{candidate}1_event": first,
        f"{candidate}2_event": second,
        "label": target,
    }
    one, two = (files[0].scene,), (files[1].scene, files[2].scene)
    videos, audios = (two, one) if dataset == "a2v" else (one, two)
    clip = names[0].rpartition(".")[0]
    return Item(dataset, split, index, clip, fields, target, answer, videos, audios, files=tuple(files))
