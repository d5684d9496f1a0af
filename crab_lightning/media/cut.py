"""Reads or cuts a part of a longer recording, with pictures and sound on one clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from crab_lightning.media.audio import Waveform, mono
from crab_lightning.media.container import (
    DEFAULT_LIMITS,
    MediaLimits,
    audio_stream,
    clock_zero_s,
    open_media,
    video_stream,
)
from crab_lightning.media.errors import EmptyMedia, MediaError, NoAudioTrack, UnreadableMedia
from crab_lightning.media.pick import open_video
from crab_lightning.media.video import Resizer, frame_converter, frame_indices, stacked
from crab_lightning.media.write import SoundTrack, container_format, muxer_options, video_track
from crab_lightning.spelling import counted
from crab_lightning.structures import SAMPLE_RATE_HZ

_CLOCK = Fraction(1, 90_000)
_ENCODER = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "crf": "24", "b": "0"},
    "mpeg4": {"qscale": "2"},
}
"""A quality near that of the source, because every model gets the result."""
_EARLIER_S = 1.0
"""Decoding begins this many seconds before the part: the first packet after a jump may be incomplete."""
_LATER_S = 0.1
"""Sound is decoded this many seconds after the part, because the resampler also uses later samples."""
_ROUNDING_S = 1e-6
_PAUSE_S = 0.1
"""A longer time in seconds between two packets of sound is a pause."""


def read_audio_piece(
    path: str | Path,
    start_s: float,
    end_s: float,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Tensor:
    """Read a part of the audio track as :func:`read_audio` reads it, without the sound long before it.

    Args:
        path: Any container with an audio track. If there are several, the one that players play is read.
        start_s: Start of the part in seconds.
        end_s: End of the part in seconds. The result is shorter if the track ends earlier.
        sample_rate_hz: Sample rate of the result.
        limits: Limits on what is read.

    Returns:
        float32 ``(S,)``, usually in [-1, 1]. If the track begins after ``start_s`` or has a gap, there is
        silence, so that sound and pictures stay on one clock.

    Raises:
        NoAudioTrack: If the file has no audio track.
        EmptyMedia: If the part has no sample.
        UnreadableMedia: If a packet cannot be decoded, the sound has no times, or its form changes midway.
    """
    path = Path(path)
    with open_media(path, limits) as container:
        track = audio_stream(container)
        if track is None:
            raise NoAudioTrack(path, "has no audio track; missing sound is not replaced with silence.")
        sound, begin_s = Waveform(sample_rate_hz, limits.duration_s), 0.0
        zero_s = clock_zero_s(container)
        if start_s > _EARLIER_S:  # a jump to the beginning would read the sound that encoders add before it
            container.seek(int((zero_s + start_s - _EARLIER_S) * av.time_base), backward=True)
        with _named(path, start_s, end_s):
            for frame in container.decode(track):
                if frame.pts is None or frame.time is None:
                    raise UnreadableMedia(
                        path,
                        "has sound without time stamps. Convert the file, for example with ffmpeg to MP4.",
                    )
                time_s = frame.time - zero_s
                if time_s >= end_s + _LATER_S:
                    break
                if not sound.accepts(frame):
                    raise UnreadableMedia(
                        path, f"{sound.change}. Convert the file, for example with ffmpeg to MP4."
                    )
                if sound.decoded == 0:
                    # Silence up to a time that is a sample of the result too, as if the whole file were read.
                    rate_hz, at = sound.rate_hz, round(time_s * sound.rate_hz)
                    early = at % (rate_hz // math.gcd(rate_hz, sample_rate_hz))
                    begin_s = (at - early) / rate_hz
                    sound.add_silence(early)
                elif (pause_s := time_s - begin_s - sound.placed_s) > _PAUSE_S:
                    sound.add_silence(round(pause_s * sound.rate_hz))
                sound.add(mono(frame))
    wave = sound.finish() if sound.decoded else np.empty(0, np.float32)
    first, samples = round((start_s - begin_s) * sample_rate_hz), round((end_s - start_s) * sample_rate_hz)
    piece = np.pad(wave, (max(-first, 0), 0))[max(first, 0) :][:samples]
    if len(wave) <= first or samples <= -first:
        raise EmptyMedia(path, f"has no sound from {start_s:g} to {end_s:g} s.")
    return torch.from_numpy(piece)


def read_video_piece(
    path: str | Path,
    start_s: float,
    end_s: float,
    frames: int,
    size_px: int | None = 224,
    *,
    resize: Resizer = "torch",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Tensor:
    """Read frames that are spread evenly over a part of a video, without decoding the rest.

    These are the frames that :func:`read_video` would choose if the part were a file of its own. Time and
    memory depend on the part and on the distance of key frames, and not on the length of the file.

    Args:
        path: Any container with a video track whose packets have times.
        start_s: Start of the part in seconds.
        end_s: End of the part in seconds.
        frames: Number of frames F.
        size_px: As for :func:`read_video`.
        resize: As for :func:`read_video`.
        limits: Limits on what is read.

    Returns:
        uint8 RGB ``(F, 3, H, W)``.

    Raises:
        NoVideoTrack: If the file has no moving pictures.
        EmptyMedia: If the part has no frame, which is also so if the file has no times.
        UnreadableMedia: If a frame of the part cannot be decoded.
    """
    path = Path(path)
    convert = frame_converter(size_px, resize)
    pictures: dict[float, Tensor] = {}
    with open_video(path, limits) as (container, track):
        zero_s = clock_zero_s(container)

        def rewind() -> None:
            container.seek(int((zero_s + max(0.0, start_s - _EARLIER_S)) * av.time_base), backward=True)

        def inside(pts: int) -> bool:
            time_s = float(pts * track.time_base) - zero_s
            return start_s - _ROUNDING_S <= time_s < end_s - _ROUNDING_S

        with _named(path, start_s, end_s):
            rewind()
            times: set[int] = set()
            for packet in container.demux(track):  # nothing is decoded yet
                if packet.pts is None or not packet.size or packet.is_discard:
                    continue
                begins = packet.pts if packet.dts is None else min(packet.dts, packet.pts)
                if begins * track.time_base - zero_s >= end_s:
                    break
                if inside(packet.pts):
                    times.add(packet.pts)
            if not times:
                raise EmptyMedia(path, f"has no frame from {start_s:g} to {end_s:g} s.")
            ordered = sorted(times)
            chosen = [ordered[index] for index in frame_indices(len(ordered), frames)]
            rewind()
            for frame in container.decode(track):
                if frame.pts in chosen:
                    pictures[frame.pts] = convert(frame)
                    if len(pictures) == len(set(chosen)):
                        break
                elif frame.pts is not None and frame.pts * track.time_base - zero_s >= end_s:
                    break
    if missing := len(set(chosen) - set(pictures)):
        raise UnreadableMedia(
            path,
            f"{counted(missing, 'frame')} from {start_s:g} to {end_s:g} s cannot be decoded."
            " Download it again.",
        )
    return stacked(path, [pictures[pts] for pts in chosen])


@contextmanager
def _named(path: Path, start_s: float, end_s: float) -> Iterator[None]:
    """Turn errors of the decoder into an ``UnreadableMedia`` that names the part of the file."""
    try:
        yield
    except MediaError:
        raise
    except (av.FFmpegError, ValueError) as err:
        raise UnreadableMedia(
            path, f"cannot be decoded from {start_s:g} to {end_s:g} s ({err}). Download it again."
        ) from err


def cut_video(
    source: str | Path,
    target: str | Path,
    start_s: float,
    end_s: float,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> None:
    """Encode a part of a video into a new file, with its sound if it has any. Times in the file begin at 0.

    The distances between frames stay the same. A copy of the stream would be faster, but it would begin at
    the nearest key frame, which may be seconds away from the start.

    Args:
        source: The longer recording.
        target: File to write. Its extension chooses the container and the codecs, and its folder must exist.
        start_s: Start of the part in seconds.
        end_s: End of the part in seconds.
        limits: Limits on what is read.

    Raises:
        EmptyMedia: If the part has no frame, or an audio track has no sound in it.
        MediaError: If the source cannot be read, or the extension of ``target`` is not known.
    """
    source, target = Path(source), Path(target)
    form = container_format(target, video=True)
    try:
        sound = read_audio_piece(source, start_s, end_s, limits=limits).numpy()[None]
    except NoAudioTrack:
        sound = None
    with (
        open_media(source, limits) as container,
        av.open(f"file:{target}", "w", options=muxer_options(target)) as out,
    ):
        track = video_stream(container)
        if track is None:
            raise UnreadableMedia(source, "has no video track.")
        rate = Fraction(track.average_rate or 25).limit_denominator(1001)
        # An avi has no times: it would fill every tick between two frames with an empty frame.
        clock = 1 / rate if target.suffix.lower() == ".avi" else _CLOCK
        stream: Any = None
        heard: SoundTrack | None = None
        zero_s = clock_zero_s(container)
        container.seek(int((zero_s + start_s) * av.time_base), backward=True)
        with _named(source, start_s, end_s):
            for frame in container.decode(track):
                if frame.time is None:
                    continue
                time_s = frame.time - zero_s
                if time_s < start_s - 1e-6:
                    continue
                if time_s >= end_s - 1e-6:
                    break
                if stream is None:
                    encoder = _ENCODER.get(form.video or "", {})
                    stream = video_track(out, str(form.video), rate, frame.height, frame.width, encoder)
                    stream.codec_context.time_base = clock
                    if sound is not None:
                        heard = SoundTrack(out, form.audio, sound, SAMPLE_RATE_HZ)
                picture = frame.reformat(format=stream.pix_fmt)
                picture.time_base, picture.pts = clock, round((time_s - start_s) / clock)
                picture.pict_type = av.video.frame.PictureType.NONE
                out.mux(stream.encode(picture))
                if heard is not None:
                    heard.write_until(time_s - start_s)
        if stream is None:
            raise EmptyMedia(source, f"has no frame from {start_s:g} to {end_s:g} s.")
        out.mux(stream.encode(None))
        if heard is not None:
            heard.finish()
