"""Makes frames, masks and sound from the description of a scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
"""Height of the time bar at the lower edge of the frame."""


def _clip(start: int, length: int) -> tuple[slice, slice]:
    """Return the part of the frame that a sprite covers along one axis, and the part of the sprite there."""
    low, high = max(start, 0), min(start + length, FRAME_PX)
    high = max(low, high)
    return slice(low, high), slice(low - start, high - start)


def _drawn(
    objects: Sequence[SceneObject], time_s: float
) -> Iterator[tuple[int, tuple[slice, slice], list[NDArray[Any]]]]:
    """Yield the index of each object that is seen at a time, its place in the frame and its sprite there."""
    for index, obj in enumerate(objects):
        if obj.sprite and obj.seen_at(time_s):
            dx, dy = obj.motion.offset(time_s)
            side = round(obj.size * FRAME_PX)
            rows, sprite_rows = _clip(round((obj.y + dy) * FRAME_PX - side / 2), side)
            columns, sprite_columns = _clip(round((obj.x + dx) * FRAME_PX - side / 2), side)
            parts = [part[sprite_rows, sprite_columns] for part in sprite(obj.sprite, side)]
            yield index, (rows, columns), parts


def render_frames(scene: Scene, times_s: Sequence[float]) -> Frames:
    """Draw a scene at some times.

    Args:
        scene: The scene.
        times_s: The F times of the frames.

    Returns:
        RGB frames, uint8 ``(F, 224, 224, 3)``.
    """
    frames = np.empty((len(times_s), FRAME_PX, FRAME_PX, 3), np.uint8)
    frames[:] = background(scene.background, FRAME_PX)
    for frame, time_s in zip(frames, times_s, strict=True):
        # The sampled frames have no time stamps. This bar grows during the clip, as in a video player.
        frame[-_BAR_PX:, : round(FRAME_PX * min(time_s / scene.duration_s, 1.0))] = _BAR_INK
        for _, place, (colour, clear, _) in _drawn(scene.objects, time_s):
            frame[place] = (colour + clear * frame[place] + 127) // 255
    return frames


def render_masks(scene: Scene, time_s: float) -> list[Mask]:
    """Return a mask of the visible part of each object at a time, bool ``(224, 224)``.

    The mask of an object that is not seen at this time is empty.
    """
    masks = [np.zeros((FRAME_PX, FRAME_PX), bool) for _ in scene.objects]
    for index, place, (*_, shape) in _drawn(scene.objects, time_s):
        for behind in masks[:index]:
            behind[place] &= ~shape
        masks[index][place] = shape
    return masks


def render_audio(scene: Scene) -> NDArray[np.float32]:
    """Return the mixed sounds of a scene, float32 ``(S,)`` in [-1, 1], at 16 kHz.

    The mix also has faint noise, and a faint tone whose pitch rises with the time.
    """
    samples = scene.duration_s * SAMPLE_RATE_HZ
    noise = noise_floor()
    shift = (scene.seed * 7919) % len(noise)
    mix = np.resize(np.roll(noise, shift), samples).astype(np.float32)
    mix += time_tone(scene.duration_s)
    fade = np.linspace(0.0, 1.0, int(_FADE_S * SAMPLE_RATE_HZ), dtype=np.float32)
    for obj in scene.objects:
        for start, end in obj.heard:
            first, last = start * SAMPLE_RATE_HZ, min(end * SAMPLE_RATE_HZ, samples)
            # Each interval starts at the start of the loop, because a bark that is cut would click.
            wave = np.resize(loop(obj.sound, obj.pitch), last - first) * np.float32(obj.loudness)
            wave[: len(fade)] *= fade
            wave[-len(fade) :] *= fade[::-1]
            mix[first:last] += wave
    return np.clip(mix, -1.0, 1.0, out=mix)


def box_of(mask: Mask) -> Box:
    """Return the smallest box around a mask: the x and y of its top left pixel and of its bottom right pixel.

    Raises:
        ValueError: If the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box; ask only for the boxes of objects that are seen")
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def points_in(mask: Mask, count: int = 3) -> list[Point]:
    """Return the centres (x, y) of the largest circles inside a mask.

    The training texts name them as points. Source: equation 1 of the Crab+ paper, arXiv:2603.04128.

    Args:
        mask: bool ``(H, W)``.
        count: Largest number of points. A small mask may have fewer.

    Raises:
        ValueError: If the mask is empty.
    """
    from crab_lightning.segmentation.prompts import inscribed_circles

    box_of(mask)
    return [(x, y) for x, y, _ in inscribed_circles(mask, count)]
