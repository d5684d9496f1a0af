"""Pictures and sounds of the synthetic world with captions, for the pre-training of connectors."""

from __future__ import annotations

import json
from pathlib import Path

from crab_lightning.files import replace_json, replace_text
from crab_lightning.mini.world.datasets import make_item
from crab_lightning.mini.world.item import MediaFile, clip_name
from crab_lightning.mini.world.phrases import a, hear_spans, see_places
from crab_lightning.mini.world.scenes import Rng, Scene, pick, random_scene, rng_for
from crab_lightning.mini.world.tree import write_files
from crab_lightning.mini.world.vocabulary import ACTION_SOUNDS, FACES, VOICES

FOLDER = "captions"
CLIP_S = 4
_PERFORMERS = ("dfew", "mafw", "meld", "cremad", "mer24", "ks", "ucf")
"""Datasets whose clips have one face or tool, with its voice or sound."""


def draw_scene(rng: Rng, seed: int) -> Scene:
    """Return a random scene with objects, or with one face or tool.

    Args:
        rng: Random generator.
        seed: Seed of the scenes with a face or a tool.
    """
    if rng.random() < 0.7:
        return random_scene(rng, CLIP_S)
    return make_item(pick(rng, _PERFORMERS), "train", int(rng.integers(1 << 30, 1 << 31)), seed).videos[0]


def caption_picture(scene: Scene, time_s: float) -> str:
    """Return a sentence about what the frame at a time shows, and where."""
    performer = scene.objects[0]
    if performer.category is not None:
        return see_places(scene, time_s)
    face = performer.sprite.startswith("face_")
    return f"I see {FACES[performer.sprite.split('_')[1]] if face else a(performer.sprite)}."


def caption_sound(scene: Scene) -> str:
    """Return a sentence about what is heard, and for objects also when."""
    performer = scene.objects[0]
    if performer.category is not None:
        return hear_spans(scene)
    voice = performer.sound.startswith("voice_")
    said = VOICES[performer.sound.removeprefix("voice_")] if voice else ACTION_SOUNDS[performer.sound]
    return f"I hear {said}."


def write_captions(root: Path | str, count: int, seed: int = 0) -> Path:
    """Write pictures with captions in the format of Video-LLaVA, and sounds with captions as JSON lines.

    None of the scenes is one of Mini AV-UIE. Media files that exist already are kept.

    Args:
        root: Data root. All files are written to its folder ``captions``.
        count: Number of pictures. There are as many sounds.
        seed: Seed of all random choices.

    Returns:
        The folder, which holds ``pictures.json``, ``sounds.jsonl`` and the media.
    """
    folder = Path(root) / FOLDER
    for kind in ("pictures", "sounds"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pictures, sounds = [], []
    for index in range(count):
        rng = rng_for(seed, FOLDER, index)
        stem = clip_name(seed, FOLDER, "train", index)
        scene, time_s = draw_scene(rng, seed), float(rng.integers(CLIP_S)) + 0.5
        picture = MediaFile(f"pictures/{stem}.jpg", "image", scene, time_s)
        talk = [
            {"from": "human", "value": "<image>\nDescribe what can be seen."},
            {"from": "gpt", "value": caption_picture(scene, time_s)},
        ]
        pictures.append({"id": stem, "image": picture.path, "conversations": talk})
        sound = MediaFile(f"sounds/{stem}.mp3", "audio", draw_scene(rng, seed))
        sounds.append({"audio": sound.path, "caption": caption_sound(sound.scene)})
        write_files(folder, (picture, sound))
    replace_json(folder / "pictures.json", pictures, indent=1)
    replace_text(folder / "sounds.jsonl", "".join(json.dumps(row) + "\n" for row in sounds))
    return folder
