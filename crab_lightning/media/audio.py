"""Reads the sound of any container as a mono waveform, on the same clock as the pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
import torch
from torch import Tensor

from crab_lightning.media.container import (
    DEFAULT_LIMITS,
    MediaLimits,
    audio_stream,
    clock_zero_s,
    is_timed,
    open_media,
    picture_end_s,
    video_stream,
)
from crab_lightning.media.errors import (
    EmptyMedia,
    MediaTooLarge,
    NoAudioTrack,
    TruncatedMedia,
    UnreadableMedia,
)
from crab_lightning.media.whole import cut_off
from crab_lightning.structures import SAMPLE_RATE_HZ

Samples = np.ndarray[Any, np.dtype[np.float32]]

# Tags and padding before or after the packets look like packets.
_JUNK_PACKETS = 2
# Times of packets are rounded (to 1 ms in mkv) and differ from the count of samples. A gap is longer than
# this.
_HOLE_S = 0.05
# If sound is this much ahead of its times, two recordings were joined, and the clock starts again.
_SPLICE_S = 1.0
# Number of samples in one call of the resampler. Smaller blocks take more time, larger ones more memory.
_BLOCK = 2**16
_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 9223372036854775808.0}


@dataclass(frozen=True)
class SoundGaps:
    """The parts of a clip in which its track has no sound. They are read as silence.

    Args:
        start_s: Time in seconds between the beginning of the clip and the first sample of the track.
        holes: Beginning and length of every pause inside the track, in seconds.
        tail_s: Time in seconds between the last sample of the track and the end of the pictures.
    """

    start_s: float = 0.0
    holes: tuple[tuple[float, float], ...] = ()
    tail_s: float = 0.0


def read_audio(
    path: str | Path, sample_rate_hz: int = SAMPLE_RATE_HZ, *, limits: MediaLimits = DEFAULT_LIMITS
) -> Tensor:
    """Read the sound of an audio or video file as mono.

    If there are several tracks, the one that players play is read (``audio_stream``). The first sample of the
    result is the beginning of the clip, from which the times of the frames are counted too. There is silence
    where the track begins late, pauses, or ends before the pictures, each by more than 0.05 s. Sound before
    the beginning (at most the 0.1 s that decoders need before the first frame) is left out.

    The channels are averaged, and then resampled by soxr with the quality ``HQ``. Both are the same as in
    ``load`` of librosa, with which the released checkpoints were trained.

    Args:
        path: Any container of ``CONTAINER_FORMATS`` with an audio track.
        sample_rate_hz: Sample rate of the result.
        limits: Limits on what is read.

    Returns:
        float32 ``(S,)``, usually in [-1, 1]. Lossy codecs may give slightly larger values.

    Raises:
        MissingMedia: If there is no such file.
        NoAudioTrack: If the file has no audio track.
        EmptyMedia: If the file or the track is empty.
        TruncatedMedia: If the file ends before its declared end, as far as its format declares one (see
            ``media.whole``).
        UnreadableMedia: If the file is not a media file, or a packet cannot be decoded. Up to 2 packets
            before the first sound and after the last sound may be tags or padding and are left out.
        MediaTooLarge: If the track is longer than ``limits.duration_s``, or the header exceeds ``limits``.
    """
    path = Path(path)
    with open_media(path, limits) as container:
        track = audio_stream(container)
        if track is None:
            raise NoAudioTrack(
                path,
                "has no audio track. Give a separate audio file, or leave the clip out; "
                "missing sound is not replaced with silence.",
            )
        declared_s = track.duration * track.time_base if track.duration is not None else None
        whole = declared_s if container.format.name == "flac" else None
        sound = Waveform(sample_rate_hz, limits.duration_s)
        error = _decode(container, track, sound)
        end_s = picture_end_s(container)
        missing_s = 0.0 if end_s is None else end_s - clock_zero_s(container) - sound.placed_s
    decoded_s = sound.decoded_s
    heard = f"{decoded_s:.2f} s of sound"
    declared = f" of {float(declared_s):.2f} s declared" if declared_s else ""
    if missing := cut_off(path):
        raise TruncatedMedia(
            path, f"is cut off: {missing}; only {heard}{declared} could be decoded. Download it again."
        )
    if sound.too_long:
        raise MediaTooLarge(
            path, f"has more sound than data.limits.duration_s = {limits.duration_s:.1f} s. Cut it."
        )
    if error is not None:
        raise UnreadableMedia(
            path, f"cannot be decoded beyond {heard} ({error}). Download it again or convert it."
        ) from error
    if sound.change is not None:
        raise UnreadableMedia(path, f"{sound.change}. Download it again or convert it.")
    if sound.decoded == 0:
        raise EmptyMedia(path, "has an audio track without a single sample. Download or extract it again.")
    # The header of a flac file has the exact number of samples.
    if whole is not None and decoded_s < float(whole) - 0.5 / sound.rate_hz:
        raise TruncatedMedia(path, f"is cut off: only {heard}{declared} could be decoded. Download it again.")
    if missing_s > _HOLE_S:
        sound.add_silence(round(missing_s * sound.rate_hz))
    return torch.from_numpy(sound.finish())


def sound_gaps(path: str | Path, *, limits: MediaLimits = DEFAULT_LIMITS) -> SoundGaps:
    """Return where the sound of a file begins late or pauses. Only the times of the packets are read.

    Args:
        path: As for :func:`read_audio`.
        limits: Limits on what is read.

    Raises:
        NoAudioTrack: If the file has no audio track.
        MediaError: If the file cannot be opened.
    """
    with open_media(path, limits) as container:
        track = audio_stream(container)
        if track is None:
            raise NoAudioTrack(path, "has no audio track. Give a file with sound.")
        if not is_timed(container):
            return SoundGaps()
        zero_s, base = clock_zero_s(container), float(track.time_base)
        # mp4 stores no end of a packet: the stated length reaches to the next packet, over any pause.
        rate_hz = track.codec_context.sample_rate or 1
        longest_s = track.codec_context.frame_size / rate_hz or math.inf
        start_s: float | None = None
        end_s, holes = 0.0, []
        for packet in container.demux(track):
            if packet.pts is None or not packet.size:
                continue
            at_s = packet.pts * base - zero_s
            if start_s is None:
                start_s = at_s
            elif at_s - end_s > _HOLE_S and packet.duration:
                holes.append((end_s, at_s - end_s))
            end_s = at_s + min((packet.duration or 0) * base, longest_s)
        shown_s = picture_end_s(container)
        tail_s = 0.0 if shown_s is None else max(0.0, shown_s - zero_s - end_s)
        return SoundGaps(max(0.0, start_s or 0.0), tuple(holes), tail_s)


@dataclass
class Waveform:
    """A mono waveform to which decoded samples are added. It is resampled immediately.

    Args:
        asked_hz: Sample rate of the result.
        longest_s: Longest length in seconds, above which ``too_long`` is set.
    """

    asked_hz: int
    longest_s: float
    rate_hz: int = 0
    channels: int = 0
    decoded: int = 0
    too_long: bool = False
    change: str | None = None
    _placed: int = 0
    _waiting: list[Samples] = field(default_factory=list)
    _held: int = 0
    _done: list[Samples] = field(default_factory=list)
    _resampler: Any = None

    @property
    def decoded_s(self) -> float:
        """Length of the decoded sound in seconds, without added silence."""
        return self.decoded / self.rate_hz if self.rate_hz else 0.0

    @property
    def placed_s(self) -> float:
        """Length of the waveform so far in seconds, with added silence."""
        return self._placed / self.rate_hz if self.rate_hz else 0.0

    def accepts(self, frame: Any) -> bool:
        """Return whether a frame has the same sample rate and number of channels as the frames before it."""
        channels = frame.layout.nb_channels
        if self.rate_hz == 0:
            self.rate_hz, self.channels = frame.sample_rate, channels
            if self.rate_hz != self.asked_hz:
                self._resampler = soxr.ResampleStream(
                    self.rate_hz, self.asked_hz, 1, dtype="float32", quality="HQ"
                )
        elif channels != self.channels:
            self.change = "changes its number of channels midway"
        elif frame.sample_rate != self.rate_hz:
            self.change = "changes its sample rate midway"
        return self.change is None

    def add(self, samples: Samples) -> None:
        """Add decoded samples ``(S,)``."""
        self.decoded += len(samples)
        self._append(samples)

    def add_silence(self, samples: int) -> None:
        """Add a number of samples of silence, up to the length limit."""
        room = int(self.longest_s * self.rate_hz) + 1 - self._placed
        self.too_long = self.too_long or samples > room
        for begin in range(0, min(samples, room), _BLOCK):
            self._append(np.zeros(min(_BLOCK, min(samples, room) - begin), np.float32))

    def _append(self, samples: Samples) -> None:
        self._placed += len(samples)
        self.too_long = self.too_long or self._placed > self.longest_s * self.rate_hz
        if self._resampler is None:
            self._done.append(samples)
            return
        self._waiting.append(samples)
        self._held += len(samples)
        if self._held >= _BLOCK:
            self._resample(last=False)

    def _resample(self, *, last: bool) -> None:
        block = np.concatenate(self._waiting) if self._waiting else np.empty(0, np.float32)
        self._waiting, self._held = [], 0
        self._done.append(self._resampler.resample_chunk(block, last=last))

    def finish(self) -> Samples:
        """Return the whole waveform. The number of samples is rounded up, as in librosa."""
        if self._resampler is None:
            return np.concatenate(self._done)
        self._resample(last=True)
        wave = np.concatenate(self._done)
        length = math.ceil(self._placed * self.asked_hz / self.rate_hz)
        return wave[:length] if len(wave) >= length else np.pad(wave, (0, length - len(wave)))


def _decode(container: Any, track: Any, sound: Waveform) -> Exception | None:
    """Decode a track into ``sound``, and return the error that stopped the decoder, if there was one."""
    place = None
    if is_timed(container):
        place = _Clock(clock_zero_s(container), alone=video_stream(container) is None)
    junk = 0
    error: Exception | None = None
    failed: Exception
    try:
        for packet in container.demux(track):
            try:
                frames = track.codec_context.decode(packet)
            except av.FFmpegError as err:
                junk, error = junk + 1, err
                if junk > _JUNK_PACKETS:
                    return error
                continue
            if frames and error is not None:
                if sound.decoded:  # damage inside the sound, and not tags at the beginning
                    return error
                junk, error = 0, None
            for frame in frames:
                if not sound.accepts(frame):
                    return None
                samples = mono(frame)
                sound.add(samples if place is None else place.fit(frame, samples, sound))
            if sound.too_long:
                break
    except av.FFmpegError as err:
        failed = err
        return failed
    return None


class _Clock:
    """Places frames of sound by their times.

    Args:
        zero_s: Time in seconds at which the clip begins.
        alone: Whether the clip has no pictures. Then no sound before the beginning has to be left out.
    """

    def __init__(self, zero_s: float, *, alone: bool) -> None:
        self._zero_s, self._alone = zero_s, alone
        self._begun = False

    def fit(self, frame: Any, samples: Samples, sound: Waveform) -> Samples:
        """Add silence before a frame that is late; return its samples without those that are too early."""
        if frame.pts is None:
            return samples
        ahead_s = sound.placed_s + self._zero_s - float(frame.pts * frame.time_base)
        first, self._begun = not self._begun, True
        if not first and abs(ahead_s) <= _HOLE_S:
            return samples
        if ahead_s > _SPLICE_S or (first and self._alone and ahead_s > 0):
            self._zero_s -= ahead_s
            return samples
        if ahead_s < 0:
            sound.add_silence(round(-ahead_s * sound.rate_hz))
            return samples
        return samples[round(ahead_s * sound.rate_hz) :]


def mono(frame: Any) -> Samples:
    """Return the mean of a frame's channels as float32 ``(S,)``."""
    values = frame.to_ndarray()
    kind = frame.format.name
    if kind == "fltp" and len(values) == 1:
        only: Samples = values[0]
        return only
    if not kind.endswith("p"):  # interleaved channels in one row
        values = values.reshape(-1, frame.layout.nb_channels).T
    scale = _SCALE.get(kind.removesuffix("p"))
    if scale is not None:
        values = values.astype(np.float32) - (128 if kind.startswith("u8") else 0)
        values /= np.float32(scale)
    elif values.dtype != np.float32:
        values = values.astype(np.float32)
    if len(values) == 1:
        return np.ascontiguousarray(values[0])
    mean: Samples = np.add.reduce(values, axis=0)
    mean /= np.float32(len(values))
    return mean
