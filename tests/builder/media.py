"""Tiny media under the official names."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

from crab_lightning.media import write_audio, write_video

HZ = 16_000


@cache
def _made(ending: str, seconds: int, sound: bool) -> bytes:
    path = Path(mkdtemp()) / f"made{ending}"
    t = np.arange(seconds * HZ) / HZ
    tone = (0.5 * np.sin(2 * np.pi * (200 + 20 * np.floor(t)) * t)).astype(np.float32)
    if ending in (".wav", ".mp3"):
        write_audio(path, tone)
    elif ending in (".jpg", ".png"):
        Image.new("RGB", (48, 32), (10, 90, 200)).save(path)
    else:
        greys = np.repeat(np.arange(seconds) % 25 * 10, 2)[:, None, None, None] * np.full((1, 32, 48, 3), 1)
        write_video(path, greys.astype(np.uint8), 2.0, tone if sound else None)
    content = path.read_bytes()
    path.unlink()
    return content


def put(path: Path, seconds: int = 1, *, sound: bool = True) -> Path:
    """Write a clip, a sound or a picture, chosen by the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_made(path.suffix, seconds, sound))
    return path


def put_mask(path: Path, box: tuple[int, int, int, int] | None) -> Path:
    """Write a mask of 48 x 32 pixels with a filled box, or an empty one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((32, 48), np.uint8)
    if box is not None:
        x1, y1, x2, y2 = box
        mask[y1 : y2 + 1, x1 : x2 + 1] = 7
    Image.fromarray(mask).save(path)
    return path
