"""Clips made small for pictures: a strip of frames, a spectrogram, an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from crab_lightning.media import MediaError, log_mel, read_audio, read_image, read_video
from crab_lightning.media.mel import hz_to_mel
from crab_lightning.structures import SAMPLE_RATE_HZ, Sample

FRAMES = 8
_FRAME_PX = 96
_COLUMNS = 480
_MEL_TOP_HZ = 8000.0

Pixels = NDArray[np.uint8]


@dataclass
class Strip:
    """Frames side by side, each from the middle of its share of the clip: uint8 ``(H, W, 3)``."""

    pixels: Pixels
    duration_s: float


@dataclass
class Sound:
    """Log-mel spectrogram, low pitch first: uint8 ``(mel, columns)``."""

    mel: Pixels
    duration_s: float


@dataclass
class ClipMedia:
    """What a sample shows and lets hear, small enough to keep.

    Args:
        strips: One for each video.
        images: The model's frames, uint8 ``(224, 224, 3)``.
        sounds: One for each audio file.
        lost: What could not be read, and why.
    """

    strips: list[Strip] = field(default_factory=list)
    images: list[Pixels] = field(default_factory=list)
    sounds: list[Sound] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def load(sample: Sample) -> ClipMedia:
    """Decode a sample's files; a file that cannot be read is named in ``lost`` and shown as such.

    Single-frame samples get no spectrogram: their box says where, not when.
    """
    found = ClipMedia()
    sounds = () if sample.images else sample.audios
    for path in (*sample.videos, *sample.images, *sounds):
        try:
            if path in sample.videos:
                found.strips.append(_strip(path))
            elif path in sample.images:
                found.images.append(read_image(path, 224).permute(1, 2, 0).numpy())
            else:
                found.sounds.append(_sound(path))
        except (MediaError, OSError) as err:
            found.lost.append(str(err))
    return found


def mel_row(hz: float) -> float:
    """Return the row of the spectrogram that a pitch falls on (Slaney's mel scale, 128 bands to 8 kHz)."""
    return hz_to_mel(hz) / hz_to_mel(_MEL_TOP_HZ) * 129 - 1


def _strip(path: Any) -> Strip:
    # Frames are taken evenly from first to last, so of 2n + 1 every second one is the middle of a share.
    clip = read_video(path, 2 * FRAMES + 1, _FRAME_PX)
    frames = clip.frames[1::2]
    return Strip(
        frames.permute(2, 0, 3, 1).reshape(_FRAME_PX, len(frames) * _FRAME_PX, 3).numpy(), clip.duration_s
    )


def _sound(path: Any) -> Sound:
    audio = read_audio(path)
    mel = log_mel(audio)
    if mel.shape[1] > _COLUMNS:
        mel = F.adaptive_avg_pool1d(mel[None], _COLUMNS)[0]
    low, high = mel.min(), mel.max()
    grey = 255 * (mel - low) / (high - low).clamp_min(1e-6)
    return Sound(grey.byte().numpy(), len(audio) / SAMPLE_RATE_HZ)
