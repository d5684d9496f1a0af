"""Four-second clips of a face that speaks, or of a tool or person that moves and sounds.

``meld``, ``mer24``, ``cremad``, ``mafw`` and ``dfew`` ask for the emotion, ``ks`` and ``ucf`` for the action.
A class is the combination of a look and a sound. Either of them alone leaves two classes possible.
"""

from __future__ import annotations

from dataclasses import replace

from crab_lightning.mini.world.item import Item, clip_item, clip_name
from crab_lightning.mini.world.scenes import (
    FRAME_PX,
    LATTICE_PX,
    Motion,
    Rng,
    Scene,
    SceneObject,
    balanced,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import (
    ACTION_SOUNDS,
    ACTIONS,
    EMOTION_CUES,
    EMOTION_WORDS,
    FACES,
    LOOKS,
    VOICES,
)

CLIP_S = 4

BACKGROUND = {"meld": "indoor", "mer24": "outdoor", "cremad": "mint", "mafw": "rose", "dfew": "grey"}
"""Background of each dataset of emotions.

The datasets use different words for the same emotion. A model can see from the background which dataset a
clip belongs to, as it can from the recordings of the real datasets.
"""

KEY = {"meld": "Emotion", "mer24": "discrete", "cremad": "emotion", "mafw": "emotion", "dfew": "emotion"}
"""The released name of the column with the class."""

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


def _scene(
    rng: Rng, sprite: str, sound: str, px: tuple[int, int, int], motion: Motion, family: str, background: str
) -> Scene:
    """Return a scene with one object; ``px`` is its centre and its side in multiples of ``LATTICE_PX``."""
    x, y, size = (LATTICE_PX * number / FRAME_PX for number in px)
    whole = ((0, CLIP_S),)
    motion = replace(motion, phase=float(rng.random()))
    pitch = int(rng.integers(-1, 2))
    performer = SceneObject(sprite, sound, None, x, y, size, motion, whole, whole, pitch=pitch)
    return Scene((performer,), CLIP_S, background, family, seed=int(rng.integers(1 << 30)))


def build_emotion(dataset: str, split: str, index: int, seed: int) -> Item:
    """Return a question about the emotion of a face that speaks."""
    rng = rng_for(seed, dataset, split, index)
    words = EMOTION_WORDS[dataset]
    emotion = list(words)[balanced(seed, index, len(words), dataset, split)]
    face, voice = EMOTION_CUES[emotion]
    sprite = f"face_{face}_{int(rng.integers(3))}"
    px = (int(rng.integers(12, 17)), int(rng.integers(12, 17)), int(rng.integers(15, 20)))  # side 120..152 px
    motion = Motion("up_down", 0.01, 2.0)
    scene = _scene(rng, sprite, f"voice_{voice}", px, motion, "face", BACKGROUND[dataset])
    stem = clip_name(seed, dataset, split, index)
    target = f"I see {FACES[face]}. I hear {VOICES[voice]}. <answer>{words[emotion]}</answer>."
    columns = {KEY[dataset]: words[emotion], "label": target}
    meld = dataset == "meld"
    return clip_item(
        dataset, split, index, stem, scene, columns, target=target, answer=words[emotion],
        path=f"{split}/{stem}" if meld else "", audio="mp3" if meld else "wav",
    )  # fmt: skip


def build_action(dataset: str, split: str, index: int, seed: int) -> Item:
    """Return a question about the action of a tool or a person."""
    rng = rng_for(seed, dataset, split, index)
    names = list(ACTIONS[dataset])
    action = names[balanced(seed, index, len(names), dataset, split)]
    look, sound = ACTIONS[dataset][action]
    size = int(rng.integers(9, 13))  # side 72..96 px
    sprite = f"face_calm_{int(rng.integers(3))}" if look == "face" else look
    px = (int(rng.integers(12, 17)), int(rng.integers(12, 17)), size)
    ucf = dataset == "ucf"
    scene = _scene(rng, sprite, sound, px, _MOTIONS[look], "action", "mint" if ucf else "sand")
    stem = clip_name(seed, dataset, split, index)
    # The released paths of UCF hold the name of the class, and its answer is the class in lower case.
    answer, path = (action.lower(), f"{action}/v_{action}_{stem}") if ucf else (action, "")
    target = f"I see {LOOKS[look]}. I hear {ACTION_SOUNDS[sound]}. <answer>{answer}</answer>"
    columns = {"label": action, "new_label": target} if ucf else {"action": action, "label": target}
    return clip_item(
        dataset, split, index, stem, scene, columns, target=target, answer=answer,
        path=path, video="avi" if ucf else "mp4", audio="wav",
    )  # fmt: skip
