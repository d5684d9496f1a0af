"""Sound of any container to mono waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from crab_lightning.media.container import DEFAULT_LIMITS, MediaLimits, audio_stream, open_media
from crab_lightning.media.errors import (
    EmptyMedia,
    MediaTooLarge,
    NoAudioTrack,
    TruncatedMedia,
    UnreadableMedia,
)
from crab_lightning.media.whole import missing_bytes
from crab_lightning.structures import SAMPLE_RATE_HZ

Piece = np.ndarray[Any, np.dtype[np.float32]]

# Tags and padding in front of or behind a chain of mp3 packets look like packets of their own.
_JUNK_PACKETS = 2


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
        TruncatedMedia: If the file ends before its container's declared end. A cut mp3 is not noticed: it is
            a bare chain of packets, and what is left of it is a shorter clip.
        UnreadableMedia: If a packet cannot be decoded. Up to 2 packets before the first sound and behind the
            last one are taken for tags or padding and left out.
        MediaTooLarge: If the decoded track is longer than ``limits.duration_s``.
    """
    path = Path(path)
    with open_media(path, limits) as container:
        track = audio_stream(container)
        if track is None:
            raise NoAudioTrack(
                path,
                "has no audio track. Give a separate audio file, or take the clip out of the manifest; "
                "silence is not put in its place.",
            )
        declared_s = track.duration * track.time_base if track.duration is not None else None
        pieces, error = _decode(container, track, sample_rate_hz, limits.duration_s)
    samples = sum(piece.shape[-1] for piece in pieces)
    heard = f"{samples / sample_rate_hz:.2f} s of sound"
    if missing := missing_bytes(path):
        declared = f" of {float(declared_s):.2f} s declared" if declared_s else ""
        raise TruncatedMedia(
            path,
            f"is cut off: {missing} bytes are missing at its end; only {heard}{declared} could be decoded. "
            f"Fetch it again.",
        )
    if error is not None:
        raise UnreadableMedia(
            path, f"cannot be decoded beyond {heard} ({error}). Fetch it again or convert it."
        ) from error
    if samples == 0:
        raise EmptyMedia(path, "has an audio track without a single sample. Fetch or extract it again.")
    if samples > limits.duration_s * sample_rate_hz:
        raise MediaTooLarge(
            path, f"has more sound than MediaLimits.duration_s = {limits.duration_s:.1f} s. Cut it."
        )
    if len({len(piece) for piece in pieces}) > 1:
        raise UnreadableMedia(path, "changes its number of channels midway. Fetch it again or convert it.")
    channels = np.concatenate(pieces, axis=1)
    return torch.from_numpy(channels[0] if len(channels) == 1 else channels.mean(axis=0))


def _decode(
    container: Any, track: Any, sample_rate_hz: int, longest_s: float
) -> tuple[list[Piece], Exception | None]:
    """Return the sound in pieces ``(channels, samples)``, and the error that ended it early, if one did."""
    # The layout is kept: libswresample's float downmix adds 3 dB, and librosa's mean is what was trained on.
    resampler = av.AudioResampler(format="fltp", layout=None, rate=sample_rate_hz)
    pieces: list[Piece] = []
    samples, junk = 0, 0
    error: Exception | None = None
    try:
        for packet in container.demux(track):
            try:
                frames = track.codec_context.decode(packet)
            except av.FFmpegError as err:
                junk, error = junk + 1, err
                if junk > _JUNK_PACKETS:
                    return pieces, err
                continue
            if frames and error is not None:
                if pieces:  # damage between sound, not junk at an edge
                    return pieces, error
                junk, error = 0, None
            for part in (part for frame in frames for part in resampler.resample(frame)):
                pieces.append(part.to_ndarray())
                samples += part.samples
            if samples > longest_s * sample_rate_hz:
                break
        if pieces:
            pieces.extend(part.to_ndarray() for part in resampler.resample(None))
    except (av.FFmpegError, ValueError) as err:  # a ValueError says that rate or layout changed midway
        return pieces, err
    return pieces, None
