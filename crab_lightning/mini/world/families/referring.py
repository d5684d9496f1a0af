"""Ten-second clips with an expression for an object, which may be absent from the frame: ``ref_avs``."""

from __future__ import annotations

from dataclasses import dataclass

from crab_lightning.mini.world.families.grounding import moment, outline, paths
from crab_lightning.mini.world.item import Item, MediaFile, clip_name
from crab_lightning.mini.world.phrases import at, box_text, hear, name, places_of, points_text, see_places
from crab_lightning.mini.world.scenes import (
    Rng,
    Scene,
    Spans,
    balanced,
    hidden_sound,
    other_categories,
    pick,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES, PLACES

CLIP_S = 10
HALF_S = 5

UNSEEN: tuple[int, ...] = (3, 6)
"""Categories that this dataset has only in its subset ``test_u``.

A model knows them from the training rows of other datasets.
"""

SUBSETS = ("test_s", "test_u", "test_n")
_KINDS = ("sounding", "named_sounding", "named_silent", "placed_sounding", "named_place", "coloured")


@dataclass(frozen=True)
class Expression:
    """An expression and the object that it names.

    Args:
        kind: Form of the expression.
        text: The expression, in lower case.
        referent: Index of the one object that it names; ``None`` if it names no object in the frame.
    """

    kind: str
    text: str
    referent: int | None


def expressions(scene: Scene, time_s: float, categories: list[int]) -> list[Expression]:
    """Return all expressions that name at most one object of a frame.

    Args:
        scene: The scene.
        time_s: Time of the frame and of the sound.
        categories: Categories that an expression may name.
    """
    seen, heard = scene.seen_at(time_s), scene.heard_at(time_s)
    both = [i for i in seen if i in heard]
    found: list[tuple[str, str, list[int]]] = [("sounding", "the object making a sound", both)]
    for place in PLACES:
        fits = [i for i in both if scene.objects[i].place == place]
        found.append(("placed_sounding", f"the object {at(place)} making a sound", fits))
    for c in categories:
        kind = CATEGORIES[c]
        mine = [i for i in seen if scene.objects[i].category == c]
        quiet = [i for i in mine if i not in heard]
        found.append(("named_sounding", f"the {kind.name} making a sound", [i for i in mine if i in heard]))
        found.append(("named_silent", f"the silent {kind.name}", quiet))
        found.append(("coloured", f"the {kind.colour} object", mine))
        for place in PLACES:
            fits = [i for i in mine if scene.objects[i].place == place]
            found.append(("named_place", f"the {kind.name} {at(place)}", fits))
    return [Expression(k, text, fits[0] if fits else None) for k, text, fits in found if len(fits) < 2]


def _scene(rng: Rng, pool: list[int], first: int) -> Scene:
    """Return a scene with two or three things. Each half of the clip has its own sound."""
    others = other_categories(rng, first, 3, pool)
    drawn = [first, *others[: int(rng.integers(1, 3))]]
    early, late = ((0, HALF_S),), ((HALF_S, CLIP_S),)
    heard: list[Spans] = [()] * len(drawn)
    # In each half, an object sounds, or (in a quarter of the cases) something that is not seen.
    speakers = [int(rng.integers(len(drawn))) if rng.random() < 0.75 else None for _ in range(2)]
    hidden = []
    for speaker, span in zip(speakers, (early, late), strict=True):
        if speaker is None:
            hidden.append(hidden_sound(rng, others[-1], span))
        else:
            heard[speaker] = (*heard[speaker], *span)
    objects = place_objects(rng, drawn, duration_s=CLIP_S, heard=heard)
    return Scene((*objects, *hidden), CLIP_S, "lilac", "objects", seed=int(rng.integers(1 << 30)))


def build_ref_avs(split: str, index: int, seed: int) -> Item:
    """Return the question whether a described object is in the frame, and where it is."""
    rng = rng_for(seed, "ref_avs", split, index)
    subset = SUBSETS[balanced(seed, index, 3, "ref_avs", split)] if split == "test" else "train"
    # One training row in six asks for an absent object, so that even a small dataset has some of them. In the
    # official training split it is one row in 23.
    present = balanced(seed, index, 6, "ref_avs", split, "exists") > 0
    exists = present if subset == "train" else subset != "test_n"
    known = [c for c in range(len(CATEGORIES)) if c not in UNSEEN]
    pool = list(range(len(CATEGORIES))) if subset == "test_u" else known
    kind = _KINDS[balanced(seed, index, len(_KINDS), "ref_avs", split, "kind")]
    while True:  # a few draws are enough: most scenes have an expression of each kind for either answer
        first = pick(rng, UNSEEN if subset == "test_u" else known)
        scene = _scene(rng, pool, first)
        frame = int(rng.integers(CLIP_S))
        time_s = moment(frame)
        options = [e for e in expressions(scene, time_s, pool) if e.kind == kind]
        if not exists:
            options = [e for e in options if e.referent is None and _near(scene, time_s, e)]
        else:
            allowed = [i for i, o in enumerate(scene.objects) if subset != "test_u" or o.category == first]
            options = [e for e in options if e.referent in allowed]
        if options:
            break
    chosen = pick(rng, options)
    clip = clip_name(seed, "ref_avs", split, index)
    # As in the released files, the id of an object has no meaning, and an absent object has one, too.
    object_id = int(rng.integers(1, 40))
    heard = hear(name(scene.objects[i]) for i in scene.heard_at(time_s))
    reasoning = f"{heard} {see_places(scene, time_s)}"
    if chosen.referent is None:
        target, answer = f"{reasoning} <answer>false</answer>. The object is absent.", "false"
    else:
        box, points = outline(scene, time_s, [chosen.referent])
        answer = "true"
        target = (
            f"{reasoning} <answer>true</answer>. {places_of([scene.objects[chosen.referent]])} "
            f"The object is the {name(scene.objects[chosen.referent])}. "
            f"Its bounding box is {box_text(box)} and its points are {points_text(points)}."
        )
    folder = f"REFAVS/media/{clip}"
    fields = {
        **paths(folder, frame),
        "vid": clip,
        "fid": object_id,
        "uid": f"{clip}_{object_id}",
        "idx": frame,
        "frame_idx": frame,
        "description": chosen.text,
        "object": chosen.text,
        "split": subset,
        "output": target,
    }
    painted = () if chosen.referent is None else (chosen.referent,)
    files = [MediaFile(f"ref_avs/{folder}/audio.wav", "audio", scene)]
    for i in range(CLIP_S):
        masks = f"ref_avs/REFAVS/gt_mask/{clip}/fid_{object_id}"
        files.append(MediaFile(f"ref_avs/{folder}/frames/{i}.jpg", "image", scene, moment(i)))
        files.append(MediaFile(f"{masks}/{i:05d}.png", "mask", scene, moment(i), painted))
    return Item(
        "ref_avs", split, index, clip, fields, target, answer, audios=(scene,),
        image=(scene, time_s), unit=frame, files=tuple(files),
    )  # fmt: skip


def _near(scene: Scene, time_s: float, expression: Expression) -> bool:
    """Return whether an expression that names no object may be asked for.

    If it has a noun, such a thing must be seen or heard.
    """
    if expression.kind in ("sounding", "placed_sounding", "coloured"):
        return True
    present = {*scene.seen_at(time_s), *scene.heard_at(time_s)}
    return any(name(scene.objects[i]) in expression.text for i in present)
