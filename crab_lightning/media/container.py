"""Opens media files within limits, and reads their headers."""

from __future__ import annotations

import functools
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import PIL
import soxr

from crab_lightning.media.errors import (
    EmptyMedia,
    MediaTooLarge,
    MissingMedia,
    TruncatedMedia,
    UnreadableMedia,
)
from crab_lightning.media.formats import CONTAINER_FORMATS, OPEN_OPTIONS, refusal
from crab_lightning.media.whole import cut_off

# The headers of these formats only estimate the length from the size and the rate of the first packets.
_GUESSED_LENGTH = frozenset({"mp3", "aac"})
# Marks of additional tracks, which are not the sound or the pictures of the clip itself.
_BESIDE = (
    av.stream.Disposition.comment
    | av.stream.Disposition.hearing_impaired
    | av.stream.Disposition.visual_impaired
    | av.stream.Disposition.karaoke
    | av.stream.Disposition.clean_effects
    | av.stream.Disposition.timed_thumbnails
    | av.stream.Disposition.still_image
)
# Containers whose packets have times on one clock. In other containers, times only count earlier packets.
_TIMED = frozenset({"mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf"})
# Containers in which a clip of sound alone also begins at time 0.
_FROM_ZERO = frozenset({"mov", "mp4", "matroska", "webm"})
# Containers that state their length, and in which a cut-off file can be recognised.
_ENDS_STATED = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
# Decoders of compressed sound need some earlier sound, which some programs write before the first picture.
_RUN_UP_S = 0.1


@dataclass(frozen=True)
class MediaLimits:
    """Limits that protect against a damaged or malicious file that would fill the memory.

    Args:
        pixels: Largest width times height of a picture; the default allows 8K video.
        duration_s: Longest clip in seconds.
        streams: Largest number of streams in a container.
        index_bytes: Largest file whose compressed packets are kept in memory; a larger file is decoded from
            its start.
        open_s: Longest time in seconds to read the header of a file.
        least_hz: Lowest sample rate of sound. A file of a few bytes could last for hours at 1 Hz.
        most_hz: Highest sample rate of sound.
    """

    pixels: int = 8192 * 8192
    duration_s: float = 4 * 3600.0
    streams: int = 64
    index_bytes: int = 256 * 2**20
    open_s: float = 20.0
    least_hz: int = 1000
    most_hz: int = 768_000


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True)
class MediaInfo:
    """The content of the header of a media file.

    Args:
        duration_s: Declared duration of the whole file in seconds; ``None`` if the header has none. For mp3
            and aac, whose headers only estimate it, the packets are counted.
        shown_s: Declared time in seconds from the start of the clip to the end of its pictures; ``None``
            without pictures, or if the header does not state it.
        has_video: Whether there is a track of moving pictures (cover art does not count).
        has_audio: Whether there is an audio track.
        width: Coded width in pixels, before any rotation; 0 without video.
        height: Coded height in pixels, before any rotation; 0 without video.
        fps: Declared average frame rate; 0 if there is none.
        sample_rate_hz: Sample rate of the audio track; 0 without audio.
    """

    duration_s: float | None
    shown_s: float | None
    has_video: bool
    has_audio: bool
    width: int
    height: int
    fps: float
    sample_rate_hz: int


def check_file(path: str | Path) -> Path:
    """Return the path of an existing, non-empty file.

    Raises:
        MissingMedia: If there is no such file, or the path is a folder, a pipe or a device.
        EmptyMedia: If the file has zero bytes.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        if path.exists():
            what = "is a folder" if path.is_dir() else "is a pipe or a device, not a file"
        raise MissingMedia(
            path, f"{what}. Check the manifest's value and the data root, or download the file."
        )
    if path.stat().st_size == 0:
        raise EmptyMedia(path, "has zero bytes. Download or extract it again.")
    return path


# A forked process inherits decoders that are not closed, without their threads. If its garbage collection
# closed one of them, it would wait for these threads for ever (seen with PyAV 18.1, libavcodec 62).
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)


@contextmanager
def open_media(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> Iterator[Any]:
    """Open a media file for reading.

    Yields:
        The PyAV input container.

    Raises:
        MissingMedia: If there is no such file.
        EmptyMedia: If the file has zero bytes.
        TruncatedMedia: If the file ends before its header.
        UnreadableMedia: If the file is not a media file of a known format, its header cannot be read in time,
            or its sample rate is out of range.
        MediaTooLarge: If the header declares more than ``limits`` allow.
    """
    path = check_file(path)
    began = time.monotonic()
    try:
        # Without "file:", the name "a:b.mp4" would be an address, and "-" the standard input.
        container = av.open(
            f"file:{path}", metadata_errors="ignore", options=OPEN_OPTIONS, timeout=(limits.open_s, None)
        )
    except (av.FFmpegError, OSError) as err:
        if time.monotonic() - began >= limits.open_s:
            raise UnreadableMedia(
                path,
                f"was not opened within data.limits.open_s = {limits.open_s:g} s: its header has no end. "
                f"Download it again or convert it.",
            ) from err
        if missing := cut_off(path):
            raise TruncatedMedia(
                path,
                f"is cut off: at least {missing}, including the header, so that 0 frames can be decoded. "
                f"Download it again.",
            ) from err
        failed = f"cannot be opened as audio or video ({err.strerror or err})"
        raise UnreadableMedia(path, refusal(path, CONTAINER_FORMATS, failed)) from err
    try:
        _check_limits(path, container, limits)
        yield container
    finally:
        container.close()


def video_stream(container: Any) -> Any | None:
    """Return the track of moving pictures that players show, or ``None``. Cover art does not count."""
    cover_art = av.stream.Disposition.attached_pic
    # A track of an unknown codec (often because of a damaged header) has no codec context.
    known = (s for s in container.streams.video if s.codec_context is not None)
    return max((s for s in known if not s.disposition & cover_art), key=_preference, default=None)


def audio_stream(container: Any) -> Any | None:
    """Return the audio track that players play, or ``None`` if there is none with a known codec.

    Normal tracks come before commentaries and tracks for people who do not see or hear. Among them, the
    default track comes first, and then the first track.
    """
    known = (s for s in container.streams.audio if s.codec_context is not None)
    return max(known, key=_preference, default=None)


def _preference(stream: Any) -> tuple[bool, bool]:
    marks = stream.disposition
    return not marks & _BESIDE, bool(marks & av.stream.Disposition.default)


def is_timed(container: Any) -> bool:
    """Return whether the packets of a container have times, so that sound may begin late or pause.

    The packets of a file with pictures always have times.
    """
    return video_stream(container) is not None or not _TIMED.isdisjoint(container.format.name.split(","))


def clock_zero_s(container: Any) -> float:
    """Return the time in seconds, on the clock of the container, at which the clip begins.

    The clip begins with its pictures, or with its sound if that begins more than 0.1 s earlier. Sound alone
    begins at time 0 in mp4, mov, mkv and webm, so that a track that was copied from a video keeps the silence
    before it. In other containers, it begins with its first sample.
    """
    shown, heard = (_start_s(track) for track in (video_stream(container), audio_stream(container)))
    if shown is not None:
        return heard if heard is not None and heard < shown - _RUN_UP_S else shown
    if heard is None or not _FROM_ZERO.isdisjoint(container.format.name.split(",")):
        return 0.0
    return heard


def picture_end_s(container: Any) -> float | None:
    """Return the time in seconds, on the clock of the container, at which the pictures end.

    ``None`` if there are no pictures, or the header does not state the time in a way that can be checked
    against the size of the file.
    """
    video = video_stream(container)
    if video is None or _ENDS_STATED.isdisjoint(container.format.name.split(",")):
        return None
    if video.duration is not None:
        return float((video.start_time or 0) + video.duration) * float(video.time_base)
    # mkv and webm state the length of the whole file, in which subtitles may be longer than pictures and
    # sound.
    others = any(stream.type not in ("video", "audio") for stream in container.streams)
    return None if container.duration is None or others else container.duration / av.time_base


def _start_s(stream: Any | None) -> float | None:
    if stream is None:
        return None
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def probe(path: str | Path, *, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Read the header of a media file.

    Raises:
        MediaError: Under the conditions of ``open_media``.
    """
    with open_media(path, limits) as container:
        video = video_stream(container)
        audio = audio_stream(container)
        duration_s = _duration_s(container)
        end_s = picture_end_s(container)
        if audio is not None and container.format.name in _GUESSED_LENGTH:
            duration_s = _counted_s(container, audio, limits.duration_s)
        return MediaInfo(
            duration_s=duration_s,
            shown_s=None if end_s is None else end_s - clock_zero_s(container),
            has_video=video is not None,
            has_audio=audio is not None,
            width=video.width if video is not None else 0,
            height=video.height if video is not None else 0,
            fps=float(video.average_rate or 0) if video is not None else 0.0,
            sample_rate_hz=audio.codec_context.sample_rate if audio is not None else 0,
        )


@functools.cache
def decoder_versions() -> str:
    """Return the versions of the libraries that decode, which may give different values for a file."""
    names = ("libavcodec", "libswscale", "libswresample")
    libraries = [".".join(map(str, av.library_versions[name])) for name in names]
    return " ".join([*libraries, PIL.__version__, soxr.__version__])


def _counted_s(container: Any, audio: Any, longest_s: float) -> float:
    """Return the length of all packets of a track in seconds, without decoding, up to the length limit."""
    units, longest = 0, longest_s / audio.time_base
    for packet in container.demux(audio):
        units += packet.duration or 0
        if units > longest:
            break
    return float(units * audio.time_base)


def _duration_s(container: Any) -> float | None:
    return None if container.duration is None else container.duration / av.time_base


def _check_limits(path: Path, container: Any, limits: MediaLimits) -> None:
    if len(container.streams) > limits.streams:
        raise MediaTooLarge(
            path, f"has {len(container.streams)} streams, more than data.limits.streams = {limits.streams}."
        )
    duration_s = _duration_s(container)
    guessed = container.format.name in _GUESSED_LENGTH  # the true length is checked during reading
    if duration_s is not None and duration_s > limits.duration_s and not guessed:
        raise MediaTooLarge(
            path,
            f"declares {duration_s:.1f} s, more than data.limits.duration_s = {limits.duration_s:.1f}. "
            f"Cut it, or set a larger limit.",
        )
    for stream in container.streams.video:
        if stream.codec_context is not None:
            check_pixels(path, stream.codec_context.width, stream.codec_context.height, limits)
    for stream in container.streams.audio:
        rate_hz = stream.codec_context.sample_rate if stream.codec_context is not None else 0
        if rate_hz and not limits.least_hz <= rate_hz <= limits.most_hz:
            raise UnreadableMedia(
                path,
                f"states a sample rate of {rate_hz} Hz; sound has {limits.least_hz} to {limits.most_hz} Hz. "
                f"Download it again or convert it.",
            )


def check_pixels(path: str | Path, width: int, height: int, limits: MediaLimits) -> None:
    """Raise ``MediaTooLarge`` if a picture has more pixels than the limits allow."""
    if width * height > limits.pixels:
        raise MediaTooLarge(
            path,
            f"has pictures of {width}x{height} pixels, more than data.limits.pixels = {limits.pixels}. "
            "Scale it down, or set a larger limit.",
        )
