"""Captioned pictures and sounds of the miniature world, to pre-train connectors on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from crab_lightning.files import replace_json, replace_text
from crab_lightning.media import write_audio
from crab_lightning.mini.world.datasets import make_item
from crab_lightning.mini.world.item import clip_name
from crab_lightning.mini.world.phrases import a, hear_spans, see_places
from crab_lightning.mini.world.render import render_audio, render_frames
from crab_lightning.mini.world.scenes import Rng, Scene, random_scene, rng_for
from crab_lightning.mini.world.vocabulary import ACTION_SOUNDS, FACES, VOICES
from crab_lightning.structures import SAMPLE_RATE_HZ

FOLDER = "captions"
CLIP_S = 4
_PERFORMERS = ("dfew", "mafw", "meld", "cremad", "mer24", "ks", "ucf")
"""Sets that show one face or tool, and play one voice or noise."""


def draw_scene(rng: Rng, seed: int) -> Scene:
    """Draw things of the world, or a face or a tool at work."""
    if rng.random() < 0.7:
        return random_scene(rng, CLIP_S)
    dataset = _PERFORMERS[int(rng.integers(len(_PERFORMERS)))]
    return make_item(dataset, "train", int(rng.integers(1 << 30, 1 << 31)), seed).videos[0]


def caption_picture(scene: Scene, time_s: float) -> str:
    """Return what one frame shows, and where."""
    performer = scene.objects[0]
    if performer.category is not None:
        return see_places(scene, time_s)
    face = performer.sprite.startswith("face_")
    return f"I see {FACES[performer.sprite.split('_')[1]] if face else a(performer.sprite)}."


def caption_sound(scene: Scene) -> str:
    """Return what is heard, and when."""
    performer = scene.objects[0]
    if performer.category is not None:
        return hear_spans(scene)
    voice = performer.sound.startswith("voice_")
    said = VOICES[performer.sound.removeprefix("voice_")] if voice else ACTION_SOUNDS[performer.sound]
    return f"I hear {said}."


def write_captions(root: Path | str, count: int, seed: int = 0) -> Path:
    """Write captioned pictures in Video-LLaVA's layout and captioned sounds as lines of JSON.

    No clip is one of Mini AV-UIE's. Files that are there already are kept.

    Args:
        root: Data root; everything lies in its folder ``captions``.
        count: Number of pictures, and of sounds.
        seed: Seed of everything.

    Returns:
        The folder, with ``pictures.json`` and ``sounds.jsonl`` beside the media.
    """
    folder = Path(root) / FOLDER
    for kind in ("pictures", "sounds"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pictures, sounds = [], []
    for index in range(count):
        rng = rng_for(seed, FOLDER, index)
        stem = clip_name(seed, FOLDER, "train", index)
        scene, time_s = draw_scene(rng, seed), float(rng.integers(CLIP_S)) + 0.5
        picture = folder / "pictures" / f"{stem}.jpg"
        if not picture.exists():
            Image.fromarray(render_frames(scene, [time_s])[0]).save(picture, quality=92)
        talk = [
            {"from": "human", "value": "<image>\nDescribe what can be seen."},
            {"from": "gpt", "value": caption_picture(scene, time_s)},
        ]
        pictures.append({"id": stem, "image": f"pictures/{picture.name}", "conversations": talk})
        scene = draw_scene(rng, seed)
        sound = folder / "sounds" / f"{stem}.mp3"
        if not sound.exists():
            wave = render_audio(scene)[: CLIP_S * SAMPLE_RATE_HZ]
            write_audio(sound, np.asarray(wave), SAMPLE_RATE_HZ)
        sounds.append({"audio": f"sounds/{sound.name}", "caption": caption_sound(scene)})
    replace_json(folder / "pictures.json", pictures, indent=1)
    replace_text(folder / "sounds.jsonl", "".join(json.dumps(row) + "\n" for row in sounds))
    return folder
