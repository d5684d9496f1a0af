"""Decodes clips for pictures: a strip of small frames, a spectrogram, or an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from crab_lightning.media import MediaError, log_mel, read_audio, read_image, read_video
from crab_lightning.structures import SAMPLE_RATE_HZ, Sample

FRAMES = 8
_FRAME_PX = 96
_COLUMNS = 480
_MEL_TOP_HZ = 8000.0

Pixels = NDArray[np.uint8]


@dataclass
class Strip:
    """Frames side by side, uint8 ``(H, W, 3)``, each from the middle of an equal part of the clip."""

    pixels: Pixels
    duration_s: float


@dataclass
class Sound:
    """Log-mel spectrogram, uint8 ``(mel, columns)``, with low frequencies in the first rows."""

    mel: Pixels
    duration_s: float


@dataclass
class ClipMedia:
    """The small pictures and spectrograms of a sample.

    Args:
        strips: One strip for each video.
        images: Images, uint8 ``(224, 224, 3)``.
        sounds: One spectrogram for each audio file.
        lost: Error messages of files that could not be read.
    """

    strips: list[Strip] = field(default_factory=list)
    images: list[Pixels] = field(default_factory=list)
    sounds: list[Sound] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def load(sample: Sample) -> ClipMedia:
    """Decode the files of a sample; errors of files that cannot be read are in ``lost``.

    Samples with images get no spectrogram, because their answers have no times.
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
    """Return the row of a frequency in the spectrogram (Slaney's mel scale, 128 bands up to 8 kHz)."""
    from transformers.audio_utils import hertz_to_mel

    return float(hertz_to_mel(hz, "slaney") / hertz_to_mel(_MEL_TOP_HZ, "slaney")) * 129 - 1


def _strip(path: Any) -> Strip:
    # Of 2n + 1 frames at equal distances, every second one is the middle of one of n equal parts.
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
