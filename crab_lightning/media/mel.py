"""Computes the log-mel spectrogram on which the audio encoder was trained, for the length of the clip."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from crab_lightning.structures import SAMPLE_RATE_HZ

MEL_BINS = 128
_FFT = 400
_HOP = 160  # 10 ms
_FLOOR = 1e-10


def mel_frames(samples: int, *, mirrored_end: bool = False) -> int:
    """Return the number of mel frames of a waveform: one for every 10 ms, also for a part at the end.

    With ``mirrored_end``, only whole 10 ms count, and a waveform that is too short to be mirrored has no
    frames.
    """
    if mirrored_end:
        return samples // _HOP if samples > _FFT // 2 else 0
    return -(-samples // _HOP)


def log_mel(audio: Tensor, *, mirrored_end: bool = False) -> Tensor:
    """Return the log-mel spectrogram of Whisper for the length of the waveform.

    The result equals the first M frames of ``WhisperFeatureExtractor(feature_size=128)`` for the clip padded
    with zeros to 30 s or 300 s. The published processor computes 300 s for every clip. The frames after the
    clip are masked before the encoder, so they are not computed here.

    Args:
        audio: float ``(S,)``, 16 kHz, at least one sample.
        mirrored_end: Mirror the clip at its end instead of adding zeros, as the feature extractor does with
            ``padding=True`` (Qwen3-Omni). Then ``M = floor(S / 160)``, and S must be above 200.

    Returns:
        float32 ``(128, M)`` with ``M = ceil(S / 160)``, or ``M = floor(S / 160)`` with ``mirrored_end``.

    Raises:
        ValueError: If ``audio`` is empty, not one-dimensional, or too short to be mirrored.
    """
    frames, margin = mel_frames(audio.shape[-1], mirrored_end=mirrored_end), _FFT // 2
    if audio.ndim != 1 or frames == 0:
        least = f"{margin + 1} samples" if mirrored_end else "one sample"
        raise ValueError(f"log_mel needs a mono waveform (S,) of at least {least}, got {tuple(audio.shape)}.")
    if mirrored_end:
        sides = functional.pad(audio.float()[None], (margin, margin), mode="reflect")[0]
        return _log_mel(sides, frames)[:, :frames]
    # Two frames after the clip still overlap it. They are not returned, but may contain the maximum, from
    # which the lower bound is computed.
    padded = functional.pad(audio.float(), (margin, (frames + 2) * _HOP + margin - audio.numel()))
    # The start is mirrored, as in stft(center=True) of the padded clip.
    padded[:margin] = padded[margin + 1 : _FFT + 1].flip(0)
    return _log_mel(padded, frames + 2)[:, :frames]


def _log_mel(padded: Tensor, counted: int) -> Tensor:
    """Return the spectrogram of a waveform with margins. Only ``counted`` frames decide the lower bound."""
    spectrum = torch.stft(padded, _FFT, _HOP, window=_window(), center=False, return_complex=True).numpy()
    # numpy needs two thirds of the time of torch for the same values.
    power = torch.from_numpy(spectrum.real**2 + spectrum.imag**2)[:, :counted]  # (201, counted)
    log = (_mel_filters() @ power).clamp_(min=_FLOOR).log10_()
    return log.clamp_(min=log.max() - 8.0).add_(4.0).div_(4.0)


@cache
def _window() -> Tensor:
    return torch.hann_window(_FFT)


@cache
def _mel_filters() -> Tensor:
    """Return the filters of Whisper ``(128, 201)``, from 0 to 8000 Hz."""
    from transformers.audio_utils import mel_filter_bank

    rate_hz = SAMPLE_RATE_HZ
    filters = mel_filter_bank(
        _FFT // 2 + 1, MEL_BINS, 0.0, rate_hz / 2, rate_hz, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters).float().T.contiguous()
