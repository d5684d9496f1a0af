"""Five-second clips cut into frames, of which sound decides what is meant: ``s4``, ``arig``, ``ms3``."""

from __future__ import annotations

from typing import Any

import numpy as np

from crab_lightning.mini.world.item import Item, MediaFile, clip_name
from crab_lightning.mini.world.phrases import box_text, hear, join, name, places_of, points_text, see_places
from crab_lightning.mini.world.render import Box, Point, box_of, points_in, render_masks
from crab_lightning.mini.world.scenes import Interval, Rng, Scene, balanced, place_objects, rng_for
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 5
_WHOLE: tuple[Interval, ...] = ((0, CLIP_S),)


def moment(frame: int) -> float:
    """Return the time of a numbered frame: the middle of its second."""
    return frame + 0.5


def paths(folder: str, frame: int) -> dict[str, Any]:
    """Return the columns that name the files of a row."""
    picture = f"{folder}/frames/{frame}.jpg"
    return {"image_path": picture, "visual_path": picture, "audio_path": f"{folder}/audio.wav"}


def outline(scene: Scene, time_s: float, objects: list[int]) -> tuple[Box, list[Point]]:
    """Return the box around some objects and three points on them, as ``data points`` makes them (eq. 1)."""
    masks = render_masks(scene, time_s)
    union = np.any([masks[i] for i in objects], axis=0)
    return box_of(union), points_in(union)


def avs_files(folder: str, scene: Scene, *, classes: bool) -> tuple[MediaFile, ...]:
    """Return every file of one AVSBench clip: sound, five frames and their masks."""
    files = [MediaFile(f"{folder}/audio.wav", "audio", scene)]
    for frame in range(CLIP_S):
        time_s = moment(frame)
        sounding = tuple(scene.heard_at(time_s))
        files.append(MediaFile(f"{folder}/frames/{frame}.jpg", "image", scene, time_s))
        files.append(MediaFile(f"{folder}/labels_rgb/{frame}.png", "mask", scene, time_s, sounding))
        if classes:
            files.append(
                MediaFile(f"{folder}/labels_semantic/{frame}.png", "classes", scene, time_s, sounding)
            )
    return tuple(files)


def _categories(rng: Rng, first: int, count: int) -> list[int]:
    free = [c for c in range(len(CATEGORIES)) if c != first]
    return [first, *(int(c) for c in rng.choice(free, count - 1, replace=False))]


def _single_source(split: str, index: int, seed: int) -> tuple[str, Scene, Rng]:
    """Return one of the clips that ``s4`` and ``arig`` share: two or three things, one sounds throughout."""
    rng = rng_for(seed, "v1s", split, index)
    first = balanced(seed, index, len(CATEGORIES), "v1s", split)
    categories = _categories(rng, first, int(rng.integers(2, 4)))
    objects = place_objects(rng, categories, duration_s=CLIP_S, heard=[_WHOLE, *[()] * (len(categories) - 1)])
    scene = Scene(objects, CLIP_S, "grey", "objects", seed=int(rng.integers(1 << 30)))
    return clip_name(seed, "v1s", split, index), scene, rng


def build_s4(split: str, index: int, seed: int) -> Item:
    """Box and points of the one thing that sounds; training knows the first frame only, as released."""
    clip, scene, _ = _single_source(split, index, seed)
    frame = 0 if split == "train" else balanced(seed, index, CLIP_S, "s4", split)
    box, points = outline(scene, moment(frame), [0])
    noun = name(scene.objects[0])
    target = (
        f"{hear([noun])} {see_places(scene, moment(frame))} {places_of(scene.objects[:1])} "
        f"The object making the sound is the {noun}. "
        f"Its bounding box is {box_text(box)} and its points are {points_text(points)}."
    )
    folder = f"AVS/v1s/{clip}"
    fields = {
        **paths(folder, frame),
        "vid": clip,
        "uid": clip,
        "a_obj": noun,
        "frame_idx": frame,
        "label_content": target,
    }
    return Item(
        "s4", split, index, clip, fields, target, box_text(box), audios=(scene,),
        image=(scene, moment(frame)), unit=frame, files=avs_files(f"s4/{folder}", scene, classes=True),
    )  # fmt: skip


def build_arig(split: str, index: int, seed: int) -> Item:
    """Box of the one thing that sounds; the clips are those of ``s4``, and so are their files."""
    clip, scene, _ = _single_source(split, index, seed)
    frame = balanced(seed, index, CLIP_S, "arig", split)
    box, _points = outline(scene, moment(frame), [0])
    noun = name(scene.objects[0])
    corners = f"<obj>({box[0]},{box[1]})({box[2]},{box[3]})</obj>"
    target = (
        f"{hear([noun])} {see_places(scene, moment(frame))} {places_of(scene.objects[:1])} "
        f"The sounding object is {noun}. Its coordinates are {corners}."
    )
    folder = f"AVS/v1s/{clip}"
    fields = {
        **paths(folder, frame),
        "a_obj": noun,
        "frame_idx": frame,
        "top_left": list(box[:2]),
        "bottom_right": list(box[2:]),
        "label_content": target,
    }
    return Item(
        "arig", split, index, clip, fields, target, corners, audios=(scene,),
        image=(scene, moment(frame)), files=avs_files(f"s4/{folder}", scene, classes=True),
    )  # fmt: skip


def build_ms3(split: str, index: int, seed: int) -> Item:
    """Three things; which one or two of them sound changes with time, so the unit of the frame matters."""
    rng = rng_for(seed, "v1m", split, index)
    first = balanced(seed, index, len(CATEGORIES), "v1m", split)
    cut = int(rng.integers(1, CLIP_S))
    # One sounds before the cut and another after it, or one all along and a second on one side of the cut.
    before, after = ((0, cut),), ((cut, CLIP_S),)
    heard = [[before, after, ()], [_WHOLE, before, ()], [_WHOLE, after, ()]][int(rng.integers(3))]
    order = [heard[int(i)] for i in rng.permutation(3)]
    objects = place_objects(rng, _categories(rng, first, 3), duration_s=CLIP_S, heard=order)
    scene = Scene(objects, CLIP_S, "rose", "objects", seed=int(rng.integers(1 << 30)))
    frame = balanced(seed, index, CLIP_S, "ms3", split)
    time_s = moment(frame)
    indices = sorted(scene.heard_at(time_s), key=lambda i: scene.objects[i].x)
    nouns = [name(scene.objects[i]) for i in indices]
    box, points = outline(scene, time_s, indices)
    many = len(nouns) > 1
    target = (
        f"{hear(nouns)} {see_places(scene, time_s)} {places_of([scene.objects[i] for i in indices])} "
        f"The object{'s' if many else ''} making the sound "
        f"{'are' if many else 'is'} {join([f'the {n}' for n in nouns])}. "
        f"{'Their' if many else 'Its'} bounding box is {box_text(box)} "
        f"and {'their' if many else 'its'} points are {points_text(points)}."
    )
    clip = clip_name(seed, "v1m", split, index)
    folder = f"AVS/v1m/{clip}"
    fields = {
        **paths(folder, frame),
        "vid": clip,
        "uid": clip,
        "a_obj": " and ".join(nouns),
        "frame_idx": frame,
        "label_content": target,
    }
    return Item(
        "ms3", split, index, clip, fields, target, box_text(box), audios=(scene,),
        image=(scene, time_s), unit=frame, files=avs_files(f"ms3/{folder}", scene, classes=False),
    )  # fmt: skip
