"""Clips of 40 to 90 seconds with events, about which a model is asked in windows of ten seconds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from crab_lightning.files import replace_json
from crab_lightning.media import write_audio, write_video
from crab_lightning.mini.world.families.events import CLIP_S, TIME_STEP_S
from crab_lightning.mini.world.item import FPS, clip_name
from crab_lightning.mini.world.phrases import tuples
from crab_lightning.mini.world.render import render_audio, render_frames
from crab_lightning.mini.world.scenes import Interval, Rng, Scene, Spans, intersect, place_objects, rng_for
from crab_lightning.mini.world.tree import write_whole
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.structures import SAMPLE_RATE_HZ

FOLDER = "long_events"
PLANTED: Interval = (25, 35)
"""Time of the only event of the first test clip. It begins in one window and ends in the next."""


def long_scene(split: str, index: int, seed: int) -> Scene:
    """Return the scene of a clip of 40 to 90 seconds with one to three things.

    Each thing is seen and heard at the same times, once or twice in the clip.

    Args:
        split: ``train`` or ``test``.
        index: Number of the clip in the split.
        seed: Seed of all random choices.
    """
    rng = rng_for(seed, FOLDER, split, index)
    if split == "test" and index == 0:
        duration_s = 4 * CLIP_S
        spans: list[Spans] = [(PLANTED,)]
    else:
        duration_s = CLIP_S * int(rng.integers(4, 10))
        spans = [_spans(rng, duration_s) for _ in range(int(rng.integers(1, 4)))]
    categories = [int(c) for c in rng.choice(len(CATEGORIES), len(spans), replace=False)]
    objects = place_objects(rng, categories, duration_s=duration_s, seen=spans, heard=spans)
    return Scene(objects, duration_s, "sky", "events", seed=int(rng.integers(1 << 30)))


def _spans(rng: Rng, duration_s: int) -> Spans:
    """Return one interval of 4 to 14 s, or one in each half of the clip."""
    limits = [0, duration_s] if rng.random() < 0.5 else [0, duration_s // 2, duration_s]
    spans = []
    for first, last in pairwise(limits):
        length = TIME_STEP_S * int(rng.integers(2, 8))
        start = first + TIME_STEP_S * int(rng.integers((last - first - length) // TIME_STEP_S))
        spans.append((start, start + length))
    return tuple(spans)


def pieces(scene: Scene) -> list[Scene]:
    """Return the scenes of the ten-second parts of a long scene, each with its own time bar and tone."""

    def within(spans: Spans, first: int) -> Spans:
        return tuple(
            (start - first, end - first) for start, end in intersect(spans, ((first, first + CLIP_S),))
        )

    parts = []
    for first in range(0, scene.duration_s, CLIP_S):
        objects = (
            replace(o, seen=within(o.seen, first), heard=within(o.heard, first)) for o in scene.objects
        )
        parts.append(replace(scene, objects=tuple(objects), duration_s=CLIP_S))
    return parts


def write_long_clips(root: Path | str, train: int, test: int, seed: int = 0) -> Path:
    """Write long clips and their manifests.

    The manifests have the columns of UnAV-100, and the true times of the events in seconds. The clips belong
    to none of the 19 datasets. Media files that exist already are kept.

    Args:
        root: Data root. The clips are written to its folder ``AVUIE_2/long_events``.
        train: Number of training clips.
        test: Number of test clips. The first one has one event from 25 to 35 s.
        seed: Seed of all random choices.

    Returns:
        The folder, which holds ``train.json``, ``test.json`` and the media.
    """
    folder = Path(root) / "AVUIE_2" / FOLDER
    for kind in ("video", "audio"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        rows = []
        for index in range(count):
            scene, stem = long_scene(split, index, seed), clip_name(seed, FOLDER, split, index)
            _write(folder, stem, scene)
            rows.append(_row(stem, scene))
        replace_json(folder / f"{split}.json", rows, indent=1)
    return folder


def _write(folder: Path, stem: str, scene: Scene) -> None:
    parts, times_s = pieces(scene), (np.arange(CLIP_S * FPS) / FPS).tolist()
    sound = np.concatenate([render_audio(part) for part in parts])

    def video(path: Path) -> None:
        write_video(path, np.concatenate([render_frames(part, times_s) for part in parts]), FPS, sound)

    write_whole(folder / "video" / f"{stem}.mp4", video)
    write_whole(folder / "audio" / f"{stem}.mp3", lambda path: write_audio(path, sound, SAMPLE_RATE_HZ))


def _row(stem: str, scene: Scene) -> dict[str, Any]:
    events = [(o.kind.unav, span) for o in scene.objects for span in o.seen]
    tags = ""
    for name in dict.fromkeys(name for name, _ in events):
        tenths = [_tenths(span, scene.duration_s) for other, span in events if other == name]
        tags += f"<event>{name}, {tuples(tenths)}</event>"
    return {
        "video_path": f"{stem}.mp4",
        "audio_path": f"{stem}.mp3",
        "vid": stem,
        "original_label": tags,
        "label_content": f"Therefore, the events and time range are {tags}.",
        "duration_s": float(scene.duration_s),
        "events_s": [{"label": name, "start_s": float(s), "end_s": float(e)} for name, (s, e) in events],
    }


def _tenths(span: Interval, duration_s: int) -> Interval:
    """Return an interval in tenths of its clip, as AV-UIE v2 states the intervals of UnAV-100."""
    start, end = (round(10 * time / duration_s) for time in span)
    return min(start, 9), max(end, min(start, 9) + 1)
