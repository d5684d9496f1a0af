"""Four-second faces with voices: ``meld``, ``mer24``, ``cremad``, ``mafw``, ``dfew``."""

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
from crab_lightning.mini.world.vocabulary import EMOTION_CUES, EMOTION_WORDS, FACES, VOICES

CLIP_S = 4

BACKGROUND = {"meld": "lilac", "mer24": "sky", "cremad": "mint", "mafw": "rose", "dfew": "grey"}
"""The sets use different words for one feeling; like their real models, they can be told by the studio."""

KEY = {"meld": "Emotion", "mer24": "discrete", "cremad": "emotion", "mafw": "emotion", "dfew": "emotion"}
"""The released name of the class column."""


def build_emotion(dataset: str, split: str, index: int, seed: int) -> Item:
    """A face that speaks. Face and voice each leave two emotions open; only together do they name one."""
    rng = rng_for(seed, dataset, split, index)
    words = EMOTION_WORDS[dataset]
    emotion = list(words)[balanced(seed, index, len(words), dataset, split)]
    face, voice = EMOTION_CUES[emotion]
    person = SceneObject(
        sprite=f"face_{face}_{int(rng.integers(3))}",
        sound=f"voice_{voice}",
        x=LATTICE_PX * int(rng.integers(12, 17)) / FRAME_PX,
        y=LATTICE_PX * int(rng.integers(12, 17)) / FRAME_PX,
        size=LATTICE_PX * int(rng.integers(15, 20)) / FRAME_PX,  # 120..152 px
        motion=Motion("up_down", 0.01, 2.0, float(rng.random())),
        seen=((0, CLIP_S),),
        heard=((0, CLIP_S),),
        pitch=int(rng.integers(-1, 2)),
    )
    scene = Scene((person,), CLIP_S, BACKGROUND[dataset], "face", seed=int(rng.integers(1 << 30)))
    stem = clip_name(seed, dataset, split, index)
    extension = "mp3" if dataset == "meld" else "wav"
    path = f"{split}/{stem}" if dataset == "meld" else stem
    target = f"I see {FACES[face]}. I hear {VOICES[voice]}. <answer>{words[emotion]}</answer>."
    fields = {
        "video_path": f"{path}.mp4",
        "audio_path": f"{path}.{extension}",
        KEY[dataset]: words[emotion],
        "label": target,
    }
    files = clip_files(dataset, path, scene, audio=extension)
    return Item(dataset, split, index, stem, fields, target, words[emotion], (scene,), (scene,), files=files)
