"""Scenes to pixels and samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crab_lightning.mini.world.scenes import FRAME_PX, Scene, SceneObject
from crab_lightning.mini.world.sounds import loop, noise_floor, time_tone
from crab_lightning.mini.world.sprites import background, sprite
from crab_lightning.structures import SAMPLE_RATE_HZ

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
Point = tuple[int, int]

_FADE_S = 0.01
_BAR_INK = (60, 60, 70)
_BAR_PX = 7
"""Height of the time bar along the lower edge."""


def _corner(obj: SceneObject, time_s: float) -> tuple[int, int, int]:
    """Top, left and side of the square that an object fills."""
    dx, dy = obj.motion.offset(time_s)
    side = round(obj.size * FRAME_PX)
    return round((obj.y + dy) * FRAME_PX - side / 2), round((obj.x + dx) * FRAME_PX - side / 2), side


def _clip(start: int, length: int) -> tuple[slice, slice]:
    """Slices of the frame and of the sprite along one axis."""
    low, high = max(start, 0), min(start + length, FRAME_PX)
    high = max(low, high)
    return slice(low, high), slice(low - start, high - start)


def render_frames(scene: Scene, times_s: Sequence[float]) -> Frames:
    """Draw a scene at some times.

    Args:
        scene: What to draw.
        times_s: F times.

    Returns:
        uint8 ``(F, 224, 224, 3)``.
    """
    frames = np.empty((len(times_s), FRAME_PX, FRAME_PX, 3), np.uint8)
    frames[:] = background(scene.background, FRAME_PX)
    for frame, time_s in zip(frames, times_s, strict=True):
        # Ten sampled frames carry no time stamp; the bar fills as the clip runs, as in a video player.
        frame[-_BAR_PX:, : round(FRAME_PX * min(time_s / scene.duration_s, 1.0))] = _BAR_INK
        for obj in scene.objects:
            if not obj.sprite or not obj.seen_at(time_s):
                continue
            top, left, side = _corner(obj, time_s)
            colour, clear, _ = sprite(obj.sprite, side)
            rows, sprite_rows = _clip(top, side)
            columns, sprite_columns = _clip(left, side)
            under = frame[rows, columns]
            frame[rows, columns] = (
                colour[sprite_rows, sprite_columns] + clear[sprite_rows, sprite_columns] * under + 127
            ) // 255
    return frames


def render_masks(scene: Scene, time_s: float) -> list[Mask]:
    """Return the visible part of each object at a time, bool ``(224, 224)``; empty where it is not seen."""
    masks = [np.zeros((FRAME_PX, FRAME_PX), bool) for _ in scene.objects]
    covered = np.zeros((FRAME_PX, FRAME_PX), bool)
    for mask, obj in zip(reversed(masks), reversed(scene.objects), strict=True):
        if not obj.sprite or not obj.seen_at(time_s):
            continue
        top, left, side = _corner(obj, time_s)
        rows, sprite_rows = _clip(top, side)
        columns, sprite_columns = _clip(left, side)
        mask[rows, columns] = sprite(obj.sprite, side)[2][sprite_rows, sprite_columns]
        mask &= ~covered
        covered |= mask
    return masks


def render_audio(scene: Scene) -> NDArray[np.float32]:
    """Mix the sounds of a scene: float32 ``(S,)`` in [-1, 1], at 16 kHz."""
    samples = scene.duration_s * SAMPLE_RATE_HZ
    noise = noise_floor()
    shift = (scene.seed * 7919) % len(noise)
    mix = np.resize(np.roll(noise, shift), samples).astype(np.float32)
    mix += time_tone(scene.duration_s)
    fade = np.linspace(0.0, 1.0, int(_FADE_S * SAMPLE_RATE_HZ), dtype=np.float32)
    for obj in scene.objects:
        for start, end in obj.heard:
            first, last = start * SAMPLE_RATE_HZ, min(end * SAMPLE_RATE_HZ, samples)
            # Loops start with the interval: a bark cut in the middle would click.
            wave = np.resize(loop(obj.sound, obj.pitch), last - first) * np.float32(obj.loudness)
            wave[: len(fade)] *= fade
            wave[-len(fade) :] *= fade[::-1]
            mix[first:last] += wave
    return np.clip(mix, -1.0, 1.0, out=mix)


def box_of(mask: Mask) -> Box:
    """Return the smallest box around a mask: x1, y1, x2, y2, first and last pixel inside.

    Raises:
        ValueError: If the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box; ask only for objects that are seen")
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def points_in(mask: Mask, count: int = 3) -> list[Point]:
    """Return the centres of the largest inscribed circles of a mask: what the training texts tell (eq. 1).

    Raises:
        ValueError: If the mask is empty.
    """
    from crab_lightning.segmentation.prompts import inscribed_circles

    box_of(mask)
    return [(x, y) for x, y, _ in inscribed_circles(mask, count)]
