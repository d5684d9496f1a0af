"""Questions about the place of what sounds in a frame of a five-second clip: ``s4``, ``arig``, ``ms3``."""

from __future__ import annotations

from typing import Any

import numpy as np

from crab_lightning.mini.world.item import Item, MediaFile, clip_name
from crab_lightning.mini.world.phrases import box_text, hear, join, name, places_of, points_text, see_places
from crab_lightning.mini.world.render import Box, Point, box_of, points_in, render_masks
from crab_lightning.mini.world.scenes import (
    Scene,
    Spans,
    balanced,
    other_categories,
    pick,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 5
_WHOLE: Spans = ((0, CLIP_S),)


def moment(frame: int) -> float:
    """Return the time of a frame, which is the middle of a second: frame 0 is at 0.5 s."""
    return frame + 0.5


def paths(folder: str, frame: int) -> dict[str, Any]:
    """Return the columns with the paths of a row's files. ``folder`` is the folder of the clip."""
    picture = f"{folder}/frames/{frame}.jpg"
    return {"image_path": picture, "visual_path": picture, "audio_path": f"{folder}/audio.wav"}


def outline(scene: Scene, time_s: float, objects: list[int]) -> tuple[Box, list[Point]]:
    """Return the box around the visible parts of some objects, and up to three points on them.

    The command ``data points`` makes the same box and points from a mask (equation 1 of the Crab+ paper).
    """
    masks = render_masks(scene, time_s)
    union = np.any([masks[i] for i in objects], axis=0)
    return box_of(union), points_in(union)


def avs_files(folder: str, scene: Scene, *, classes: bool) -> tuple[MediaFile, ...]:
    """Return the files of an AVSBench clip: its sound, its five frames and their masks.

    Args:
        folder: Folder of the clip, relative to the folder that holds the manifests.
        scene: The scene.
        classes: Whether there are masks with category numbers, too.
    """
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


def build_single_source(dataset: str, split: str, index: int, seed: int) -> Item:
    """Return a question about the one thing that sounds: its box and points (``s4``) or its box (``arig``).

    Both datasets ask about the same clips and use the same files. The released training rows of S4 are about
    the first frame only.
    """
    rng = rng_for(seed, "v1s", split, index)
    first = balanced(seed, index, len(CATEGORIES), "v1s", split)
    categories = [first, *other_categories(rng, first, int(rng.integers(2, 4)) - 1)]
    objects = place_objects(rng, categories, duration_s=CLIP_S, heard=[_WHOLE, *[()] * (len(categories) - 1)])
    scene = Scene(objects, CLIP_S, "grey", "objects", seed=int(rng.integers(1 << 30)))
    clip, s4 = clip_name(seed, "v1s", split, index), dataset == "s4"
    frame = 0 if s4 and split == "train" else balanced(seed, index, CLIP_S, dataset, split)
    time_s = moment(frame)
    box, points = outline(scene, time_s, [0])
    noun = name(objects[0])
    target = f"{hear([noun])} {see_places(scene, time_s)} {places_of(objects[:1])} "
    fields = {**paths(f"AVS/v1s/{clip}", frame), "a_obj": noun, "frame_idx": frame}
    if s4:
        answer = box_text(box)
        target += (
            f"The object making the sound is the {noun}. "
            f"Its bounding box is {answer} and its points are {points_text(points)}."
        )
        fields |= {"vid": clip, "uid": clip}
    else:
        answer = f"<obj>({box[0]},{box[1]})({box[2]},{box[3]})</obj>"
        target += f"The sounding object is {noun}. Its coordinates are {answer}."
        fields |= {"top_left": list(box[:2]), "bottom_right": list(box[2:])}
    fields["label_content"] = target
    return Item(
        dataset, split, index, clip, fields, target, answer, audios=(scene,), image=(scene, time_s),
        unit=frame if s4 else None, files=avs_files(f"s4/AVS/v1s/{clip}", scene, classes=True),
    )  # fmt: skip


def build_ms3(split: str, index: int, seed: int) -> Item:
    """Return a question about the one or two of three things that sound at the time of the frame."""
    rng = rng_for(seed, "v1m", split, index)
    first = balanced(seed, index, len(CATEGORIES), "v1m", split)
    cut = int(rng.integers(1, CLIP_S))
    # One thing sounds before the cut and another one after it, or one all the time and another one before or
    # after the cut.
    before, after = ((0, cut),), ((cut, CLIP_S),)
    heard: list[Spans] = pick(rng, [[before, after, ()], [_WHOLE, before, ()], [_WHOLE, after, ()]])
    order = [heard[int(i)] for i in rng.permutation(3)]
    categories = [first, *other_categories(rng, first, 2)]
    objects = place_objects(rng, categories, duration_s=CLIP_S, heard=order)
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
