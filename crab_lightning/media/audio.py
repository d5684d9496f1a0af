"""Sound of any container to mono waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from crab_lightning.media.container import DEFAULT_LIMITS, MediaLimits, open_media
from crab_lightning.media.errors import (
    EmptyMedia,
    MediaTooLarge,
    NoAudioTrack,
    TruncatedMedia,
    UnreadableMedia,
)
from crab_lightning.structures import SAMPLE_RATE_HZ

# Headers round to packets and may count encoder padding; a cut file misses more than that.
_TRUNCATION_TOLERANCE_S = 0.5


def read_audio(
    path: str | Path, sample_rate_hz: int = SAMPLE_RATE_HZ, *, limits: MediaLimits = DEFAULT_LIMITS
) -> Tensor:
    """Read the first audio track of an audio or video file as mono.

    Channels are averaged (as librosa does), then resampled by libswresample.

    Args:
        path: Any container with an audio track.
        sample_rate_hz: Rate of the result.
        limits: Bounds on what is read.

    Returns:
        float32 ``(S,)``, nominally in [-1, 1]; lossy codecs may overshoot a little.

    Raises:
        NoAudioTrack: If the file has none.
        EmptyMedia: If the track has no sample.
        TruncatedMedia: If the track ends more than 0.5 s before its declared end. A cut mp3 is not
            noticed: it is a bare chain of packets, and what is left of it is a shorter clip.
        UnreadableMedia: If a packet cannot be decoded.
        MediaTooLarge: If the decoded track is longer than ``limits.duration_s``.
    """
    path = Path(path)
    with open_media(path, limits) as container:
        track = next(iter(container.streams.audio), None)
        if track is None:
            raise NoAudioTrack(
                path,
                "has no audio track. Give a separate audio file, or take the clip out of the manifest; silence is "
                "not put in its place.",
            )
        pieces = _decode(path, container, track, sample_rate_hz, limits)
        samples = sum(piece.shape[-1] for piece in pieces)
        if samples == 0:
            raise EmptyMedia(path, "has an audio track without a single sample. Fetch or extract it again.")
        declared_s = float(track.duration * track.time_base) if track.duration is not None else None
        decoded_s = samples / sample_rate_hz
        is_exact = "mp3" not in container.format.name.split(",")  # bare mp3: duration is a guess from bit rate
        if is_exact and declared_s is not None and decoded_s < declared_s - _TRUNCATION_TOLERANCE_S:
            raise TruncatedMedia(
                path,
                f"declares {declared_s:.2f} s of sound, but only {decoded_s:.2f} s could be decoded. Fetch it again.",
            )
    return torch.from_numpy(np.concatenate(pieces))


def _decode(
    path: Path, container: Any, track: Any, sample_rate_hz: int, limits: MediaLimits
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    # The layout is kept: libswresample's float downmix adds 3 dB, and librosa's mean is what was trained on.
    resampler = av.AudioResampler(format="fltp", layout=None, rate=sample_rate_hz)
    pieces: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    samples = 0
    try:
        for frame in container.decode(track):
            for part in resampler.resample(frame):
                pieces.append(_mono(part))
                samples += part.samples
            if samples > limits.duration_s * sample_rate_hz:
                raise MediaTooLarge(
                    path, f"has more than MediaLimits.duration_s = {limits.duration_s:.1f} s of sound. Cut it."
                )
        if pieces:
            pieces.extend(_mono(part) for part in resampler.resample(None))
    except (av.FFmpegError, ValueError) as err:
        if isinstance(err, MediaTooLarge):
            raise
        raise UnreadableMedia(
            path,
            f"cannot be decoded beyond {samples / sample_rate_hz:.2f} s of sound ({err}). Fetch or convert it again.",
        ) from err
    return pieces


def _mono(frame: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    planes = frame.to_ndarray()  # (channels, samples)
    mono: np.ndarray[Any, np.dtype[np.float32]] = planes[0] if len(planes) == 1 else planes.mean(axis=0)
    return mono
