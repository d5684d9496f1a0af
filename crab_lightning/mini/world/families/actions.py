"""Four-second actions, told apart by look and sound together: ``ks``, ``ucf``."""

from __future__ import annotations

from crab_lightning.mini.world.item import Item, clip_files, clip_name
from crab_lightning.mini.world.scenes import (
    FRAME_PX,
    LATTICE_PX,
    Motion,
    Scene,
    SceneObject,
    balanced,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import ACTION_SOUNDS, ACTIONS, LOOKS

CLIP_S = 4

_MOTIONS = {
    "guitar": Motion("shake", 0.05, 0.8),
    "stick": Motion("up_down", 0.2, 2.0),
    "box": Motion("left_right", 0.2, 2.0),
    "face": Motion("up_down", 0.05, 1.0),
    "brush": Motion("left_right", 0.2, 2.0),
    "ball": Motion("circle", 0.2, 2.0),
    "walker": Motion("left_right", 0.2, 4.0),
    "hammer": Motion("up_down", 0.2, 2.0),
}


def build_action(dataset: str, split: str, index: int, seed: int) -> Item:
    """One tool or person that moves and sounds; its neighbours in the ring share the look or the sound."""
    rng = rng_for(seed, dataset, split, index)
    names = list(ACTIONS[dataset])
    action = names[balanced(seed, index, len(names), dataset, split)]
    look, sound = ACTIONS[dataset][action]
    base = _MOTIONS[look]
    size_px = LATTICE_PX * int(rng.integers(9, 13))  # 72..96 px
    obj = SceneObject(
        sprite=f"face_calm_{int(rng.integers(3))}" if look == "face" else look,
        sound=sound,
        x=LATTICE_PX * int(rng.integers(12, 17)) / FRAME_PX,
        y=LATTICE_PX * int(rng.integers(12, 17)) / FRAME_PX,
        size=size_px / FRAME_PX,
        motion=Motion(base.kind, base.amplitude, base.period_s, float(rng.random())),
        seen=((0, CLIP_S),),
        heard=((0, CLIP_S),),
        pitch=int(rng.integers(-1, 2)),
    )
    background = "sand" if dataset == "ks" else "mint"
    scene = Scene((obj,), CLIP_S, background, "action", seed=int(rng.integers(1 << 30)))
    stem = clip_name(seed, dataset, split, index)
    clip = stem
    answer = action
    if dataset == "ucf":  # released as <class>/<file>; the answer is the class in lower case
        clip, answer = f"{action}/v_{action}_{stem}", action.lower()
    files = clip_files(dataset, clip, scene, video="avi" if dataset == "ucf" else "mp4", audio="wav")
    target = f"I see {LOOKS[look]}. I hear {ACTION_SOUNDS[sound]}. <answer>{answer}</answer>"
    fields = {
        "video_path": files[0].path.removeprefix(f"{dataset}/video/"),
        "audio_path": files[1].path.removeprefix(f"{dataset}/audio/"),
    }
    fields |= (
        {"label": action, "new_label": target} if dataset == "ucf" else {"action": action, "label": target}
    )
    return Item(dataset, split, index, stem, fields, target, answer, (scene,), (scene,), files=files)
