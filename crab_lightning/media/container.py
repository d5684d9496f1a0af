"""Opening media files within stated limits, and what their headers say."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import PIL

from crab_lightning.media.errors import (
    EmptyMedia,
    MediaTooLarge,
    MissingMedia,
    TruncatedMedia,
    UnreadableMedia,
)
from crab_lightning.media.whole import missing_bytes


@dataclass(frozen=True)
class MediaLimits:
    """Bounds that keep one hostile or mistaken file from taking the machine's memory.

    Args:
        pixels: Largest width times height of a picture; the default admits 8K video.
        duration_s: Longest clip.
        streams: Largest number of streams in a container.
        index_bytes: Largest file whose compressed packets are held in memory; a larger one is decoded from
            its start.
    """

    pixels: int = 8192 * 8192
    duration_s: float = 4 * 3600.0
    streams: int = 64
    index_bytes: int = 256 * 2**20


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True)
class MediaInfo:
    """What the header of a media file declares; nothing is decoded.

    Args:
        path: The file.
        container: Container format as ffmpeg names it, e.g. ``mov,mp4,m4a,3gp,3g2,mj2``.
        duration_s: Declared duration of the whole file; ``None`` where the header has none.
        has_video: Whether there is a track of moving pictures (cover art does not count).
        has_audio: Whether there is an audio track.
        video_codec: Codec of the video track.
        audio_codec: Codec of the audio track.
        width: Coded width in pixels, before any rotation; 0 without video.
        height: Coded height in pixels, before any rotation; 0 without video.
        fps: Declared average frame rate; 0 where there is none.
        frames: Declared number of video frames; 0 where the header has none.
        sample_rate_hz: Rate of the audio track; 0 without audio.
        channels: Channels of the audio track; 0 without audio.
    """

    path: Path
    container: str
    duration_s: float | None
    has_video: bool
    has_audio: bool
    video_codec: str | None
    audio_codec: str | None
    width: int
    height: int
    fps: float
    frames: int
    sample_rate_hz: int
    channels: int


def check_file(path: str | Path) -> Path:
    """Return the path of an existing, non-empty file.

    Raises:
        MissingMedia: If there is no such file.
        EmptyMedia: If the file has zero bytes.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingMedia(path, f"{what}. Check the manifest's value and the data root, or fetch the file.")
    if path.stat().st_size == 0:
        raise EmptyMedia(path, "has zero bytes. Fetch or extract it again.")
    return path


@contextmanager
def open_media(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> Iterator[Any]:
    """Open a media file for reading.

    Yields:
        The PyAV input container.

    Raises:
        MissingMedia: If there is no such file.
        EmptyMedia: If the file has zero bytes.
        TruncatedMedia: If the file ends before its header.
        UnreadableMedia: If it is no media file.
        MediaTooLarge: If its header declares more than ``limits`` allow.
    """
    path = check_file(path)
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as err:
        if missing := missing_bytes(path):
            raise TruncatedMedia(
                path,
                f"is cut off: at least {missing} bytes are missing at its end, the header among them, so "
                f"that 0 frames can be decoded. Fetch it again.",
            ) from err
        raise UnreadableMedia(
            path, f"cannot be opened as audio or video ({err.strerror or err}). Fetch it again or convert it."
        ) from err
    try:
        _check_limits(path, container, limits)
        yield container
    finally:
        container.close()


def video_stream(container: Any) -> Any | None:
    """Return the first track of moving pictures; cover art of a music file is none."""
    cover_art = av.stream.Disposition.attached_pic
    # A track of a codec that nobody knows (often a damaged header) has no context to decode with.
    known = (s for s in container.streams.video if s.codec_context is not None)
    return next((s for s in known if not s.disposition & cover_art), None)


def audio_stream(container: Any) -> Any | None:
    """Return the first audio track of a known codec."""
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def probe(path: str | Path, *, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Read what the header of a media file declares.

    Raises:
        MediaError: As ``open_media``.
    """
    with open_media(path, limits) as container:
        video = video_stream(container)
        audio = audio_stream(container)
        return MediaInfo(
            path=Path(path),
            container=container.format.name,
            duration_s=_duration_s(container),
            has_video=video is not None,
            has_audio=audio is not None,
            video_codec=video.codec_context.name if video is not None else None,
            audio_codec=audio.codec_context.name if audio is not None else None,
            width=video.width if video is not None else 0,
            height=video.height if video is not None else 0,
            fps=float(video.average_rate or 0) if video is not None else 0.0,
            frames=video.frames if video is not None else 0,
            sample_rate_hz=audio.codec_context.sample_rate if audio is not None else 0,
            channels=audio.codec_context.channels if audio is not None else 0,
        )


@functools.cache
def decoder_versions() -> str:
    """Name the libraries that decode: another version of one may give other values for the same file."""
    names = ("libavcodec", "libswscale", "libswresample")
    libraries = [".".join(map(str, av.library_versions[name])) for name in names]
    return " ".join([*libraries, PIL.__version__])


def _duration_s(container: Any) -> float | None:
    return None if container.duration is None else container.duration / av.time_base


def _check_limits(path: Path, container: Any, limits: MediaLimits) -> None:
    if len(container.streams) > limits.streams:
        raise MediaTooLarge(
            path, f"has {len(container.streams)} streams, more than MediaLimits.streams = {limits.streams}."
        )
    duration_s = _duration_s(container)
    if duration_s is not None and duration_s > limits.duration_s:
        raise MediaTooLarge(
            path,
            f"declares {duration_s:.1f} s, more than MediaLimits.duration_s = {limits.duration_s:.1f}. "
            f"Cut it, or pass larger limits.",
        )
    for stream in container.streams.video:
        if stream.codec_context is not None:
            check_pixels(path, stream.codec_context.width, stream.codec_context.height, limits)


def check_pixels(path: str | Path, width: int, height: int, limits: MediaLimits) -> None:
    """Raise ``MediaTooLarge`` when a picture has more pixels than the limits allow."""
    if width * height > limits.pixels:
        raise MediaTooLarge(
            path,
            f"has pictures of {width}x{height} pixels, more than MediaLimits.pixels = {limits.pixels}. "
            f"Scale it down, or pass larger limits.",
        )
