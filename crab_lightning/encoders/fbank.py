"""Waveform to the log-mel filter bank that BEATs reads, and how many tokens come of it.

Source: BEATs (arXiv:2212.09058) as published in microsoft/unilm: Kaldi's filter bank on 16-bit values, scaled
by the mean and deviation of AudioSet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crab_lightning.structures import SAMPLE_RATE_HZ

FBANK_BINS = 128
PATCH = 16
"""Frames and bins to a side of a patch."""
BANDS = FBANK_BINS // PATCH
"""Patches that stand above each other; a time step of 16 frames gives as many tokens."""
MEAN, DEVIATION = 15.41663, 6.55582
_WINDOW, _SHIFT = 400, 160  # samples in 25 ms and 10 ms
SHORTEST_SAMPLES = _WINDOW + (PATCH - 1) * _SHIFT
"""Samples of one time step, 0.175 s; less gives no token at all."""


def fbank_frames(samples: int) -> int:
    """Return the number of frames of a waveform: 25 ms every 10 ms, none reaching over the end."""
    return 0 if samples < _WINDOW else 1 + (samples - _WINDOW) // _SHIFT


def beats_tokens(frames: int) -> int:
    """Return the number of tokens of ``frames`` frames; a rest that fills no patch is not heard.

    >>> [beats_tokens(fbank_frames(seconds * 16_000)) for seconds in (1, 10, 30)]
    [48, 496, 1496]
    """
    return frames // PATCH * BANDS


def beats_fbank(audio: Tensor) -> Tensor:
    """Return the normalised filter bank of one clip.

    Args:
        audio: float32 ``(S,)``, 16 kHz, in [-1, 1].

    Returns:
        float32 ``(M, 128)``, M as ``fbank_frames`` says.

    Raises:
        ValueError: If the clip is shorter than a window of 25 ms.
    """
    try:
        from torchaudio.compliance import kaldi
    except OSError as err:  # its compiled library was made for another torch
        raise ImportError(
            f"torchaudio cannot be loaded beside torch {torch.__version__}: {str(err).splitlines()[0]}. "
            "Install the torchaudio that belongs to this torch, such as torchaudio==2.11.0 for torch 2.11"
        ) from err

    if audio.ndim != 1 or audio.shape[0] < _WINDOW:
        raise ValueError(
            f"a waveform of shape {tuple(audio.shape)} has no filter bank; (S,) with S of at least {_WINDOW} "
            "samples is needed"
        )
    bank: Tensor = kaldi.fbank(
        audio.to(torch.float32)[None] * 2**15,
        num_mel_bins=FBANK_BINS,
        sample_frequency=float(SAMPLE_RATE_HZ),
        frame_length=25.0,
        frame_shift=10.0,
    )
    return (bank - MEAN) / (2 * DEVIATION)
