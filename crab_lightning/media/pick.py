"""Decodes chosen frames of a video file, with the packet index if that is safe, or else from the start.

The packet index is only used if its frames are exact. These rules must hold:

1. The container has a time for every packet (mp4, mov, mkv, webm, avi), the codec is one of ``CODECS``, and
   the file has at most ``MediaLimits.index_bytes`` bytes.
2. Every packet has data, its own timestamp and no mark of damage, and the first packet can be decoded alone.
3. During decoding, each packet that may not be skipped gives exactly one progressive frame with its own
   timestamp, and there are no other frames.

If a rule does not hold, the whole file is decoded and its frames are counted. A file with more than
``LOST_SHARE`` of damaged frames is refused. With the packet index, damage in packets that no wanted frame
needs is not noticed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
from torch import Tensor

from crab_lightning.media.container import (
    DEFAULT_LIMITS,
    MediaLimits,
    check_file,
    clock_zero_s,
    open_media,
    video_stream,
)
from crab_lightning.media.errors import EmptyMedia, NoVideoTrack, TruncatedMedia, UnreadableMedia
from crab_lightning.media.index import CONTAINERS, NotIndexable, PacketIndex, Segment
from crab_lightning.media.whole import cut_off

LOST_SHARE = 0.02
# Times are rounded: a frame at 2/3 s must also be found at 0.666666666 s.
_ROUNDING_S = 1e-6


@dataclass
class Picked:
    """Chosen frames of one file.

    Args:
        indices: The chosen indices in the given order, with repeats.
        pictures: The converted frames, by index.
        times_s: Times in seconds from the beginning of the clip (``clock_zero_s``), by index.
        total: Number of frames in the file.
        duration_s: Time in seconds from the start of the first frame to the end of the last frame.
        through_index: Whether the packet index was used.
        lost_frames: Number of damaged frames that the decoder left out, as far as this was noticed.
    """

    indices: list[int]
    pictures: dict[int, Tensor]
    times_s: dict[int, float]
    total: int
    duration_s: float
    through_index: bool
    lost_frames: int = 0


def pick_frames(
    path: str | Path,
    choose: Callable[[int], Sequence[int]],
    convert: Callable[[Any], Tensor],
    *,
    access: Literal["index", "sequential"] = "index",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Picked:
    """Decode chosen frames, and convert only these.

    Args:
        path: The file.
        choose: Function that returns the wanted indices for the number of frames in the file.
        convert: Function that makes a tensor from a decoded frame.
        access: As for ``read_video``.
        limits: Limits on what is read.

    Raises:
        MediaError: Under the conditions of ``read_video``.
        ValueError: If ``access`` is another word.
    """
    path = check_file(path)
    found = _pick_indexed(path, lambda index, _: choose(index.total), convert, access, limits)
    if found is not None:
        return found
    with open_video(path, limits) as (container, stream):
        guess = max(1, _declared_frames(container, stream))
    while True:  # at most two passes, since the first one counts the frames
        picked = _pass(path, list(choose(guess)), convert, limits)
        if picked.total == guess:
            return picked
        guess = picked.total


def pick_shown(
    path: str | Path,
    moment_s: float,
    convert: Callable[[Any], Tensor],
    *,
    access: Literal["index", "sequential"] = "index",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> tuple[Tensor, float]:
    """Decode and convert the frame that is shown at a moment of the clip.

    This is the last frame that does not begin after the moment, or the first frame if there is none.

    Args:
        path: The file.
        moment_s: Time in seconds from the beginning of the clip.
        convert: Function that makes a tensor from a decoded frame.
        access: As for ``read_video``.
        limits: Limits on what is read.

    Returns:
        The converted frame, and its time in seconds.

    Raises:
        MediaError: Under the conditions of ``read_video``.
    """

    def choose(index: PacketIndex, zero_s: float) -> list[int]:
        times_s = [index.time_s(pts, zero_s) for pts in index.shown_pts]
        return [max(0, bisect_right(times_s, moment_s + _ROUNDING_S) - 1)]

    path = check_file(path)
    if (picked := _pick_indexed(path, choose, convert, access, limits)) is not None:
        (at,) = picked.indices
        return picked.pictures[at], picked.times_s[at]
    shown: tuple[Any, float] | None = None
    with open_video(path, limits) as (container, stream):
        for frame, time_s in _timed_frames(container, stream):
            if shown is not None and time_s > moment_s + _ROUNDING_S:
                break
            shown = frame, time_s
    if shown is None:
        raise EmptyMedia(path, "has a video track without a single frame. Download it again.")
    return convert(shown[0]), shown[1]


def _timed_frames(container: Any, stream: Any) -> Iterator[tuple[Any, float]]:
    """Yield the frames of a track that can be decoded, with their times in seconds."""
    zero_s, end_s = clock_zero_s(container), 0.0
    step_s = 1.0 / float(stream.average_rate or stream.guessed_rate or 25)
    for packet in container.demux(stream):
        with suppress(av.FFmpegError):
            for frame in packet.decode():
                # A frame without a timestamp follows the frame before it.
                time_s = end_s if frame.pts is None else float(frame.pts * frame.time_base) - zero_s
                end_s = time_s + step_s
                yield frame, time_s


@contextmanager
def open_video(path: Path, limits: MediaLimits) -> Iterator[tuple[Any, Any]]:
    """Open a file, and return its container and its video track.

    Raises:
        NoVideoTrack: If the file has no moving pictures.
        MediaError: Under the conditions of ``open_media``.
    """
    with open_media(path, limits) as container:
        stream = video_stream(container)
        if stream is None:
            raise NoVideoTrack(path, "has no video track. Give a video file, or use its sound only.")
        # One decoder thread: worker processes scale better than threads.
        stream.codec_context.thread_count = 1
        # The size in the header was checked; this also stops a stream whose frames become larger.
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}
        yield container, stream


def _pick_indexed(
    path: Path,
    choose: Callable[[PacketIndex, float], Sequence[int]],
    convert: Callable[[Any], Tensor],
    access: str,
    limits: MediaLimits,
) -> Picked | None:
    """Decode chosen frames with the packet index, if this is wanted and safe.

    If rule 1, 2 or 3 fails, decoding from the start gives the frames or reports the damage. ``choose`` also
    gets the time in seconds at which the clip begins.
    """
    if access not in ("index", "sequential"):
        raise ValueError(f"access is {access!r}; allowed: 'index', 'sequential'.")
    if missing := cut_off(path):
        with open_video(path, limits) as (container, stream):
            raise TruncatedMedia(
                path,
                f"is cut off: {missing}; only {_count(container, stream)} of "
                f"{_declared_frames(container, stream)} declared frames could be decoded. Download it again.",
            )
    if access == "sequential" or path.stat().st_size > limits.index_bytes:
        return None
    with suppress(NotIndexable, av.FFmpegError), open_video(path, limits) as (container, stream):
        zero_s = clock_zero_s(container)
        index = PacketIndex.of(path, container, stream)
        indices = list(choose(index, zero_s))
        rank = {index.shown_pts[i]: i for i in set(indices)}
        pictures: dict[int, Tensor] = {}
        for segment in index.segments(set(rank)):
            _decode_segment(index, segment, stream.codec_context, rank, pictures, convert)
        if len(pictures) == len(rank):  # otherwise a wanted frame did not come out of the decoder
            times_s = {i: index.time_s(pts, zero_s) for pts, i in rank.items()}
            return Picked(indices, pictures, times_s, index.total, index.duration_s, through_index=True)
    return None


def _decode_segment(
    index: PacketIndex,
    segment: Segment,
    context: Any,
    rank: dict[int, int],
    pictures: dict[int, Tensor],
    convert: Callable[[Any], Tensor],
) -> None:
    due: set[int] = set()  # timestamps that must come out
    may: set[int] = set()  # timestamps that may come out, since the decoder decides what it skips
    seen: set[int] = set()

    def take(frames: list[Any]) -> None:
        for frame in frames:
            if frame.pts in seen or frame.interlaced_frame:
                raise NotIndexable("packets and frames are not one to one")
            seen.add(frame.pts)
            if frame.pts in rank and frame.pts in due:
                pictures[rank[frame.pts]] = convert(frame)

    for packet in index.packets[segment.first : segment.last + 1]:
        skippable = index.may_skip and packet.pts not in segment.wanted_pts
        context.skip_frame = "NONREF" if skippable else "DEFAULT"
        if not packet.is_discard:
            (may if skippable else due).add(packet.pts)
        take(context.decode(packet))
    take(context.decode(None))
    context.flush_buffers()
    if not due <= seen or not seen <= due | may:
        raise NotIndexable("packets and frames are not one to one")


def _declared_frames(container: Any, stream: Any) -> int:
    """Return the number of frames in the header, or an estimate from its duration and frame rate."""
    seconds = (container.duration or 0) / av.time_base
    return int(stream.frames) or round(seconds * float(stream.average_rate or 0))


def _count(container: Any, stream: Any) -> int:
    frames = 0
    with suppress(av.FFmpegError):
        for _ in container.decode(stream):
            frames += 1
    return frames


def _pass(path: Path, indices: list[int], convert: Callable[[Any], Tensor], limits: MediaLimits) -> Picked:
    wanted = set(indices)
    pictures: dict[int, Tensor] = {}
    times_s: dict[int, float] = {}
    total, first_pts, first_s, end_s = 0, 0, 0.0, 0.0
    fed_pts: set[int] = set()
    shown_pts: set[int | None] = set()
    errors: list[av.FFmpegError] = []
    with open_video(path, limits) as (container, stream):
        step_s = 1.0 / float(stream.average_rate or stream.guessed_rate or 25)
        zero_s = clock_zero_s(container)
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                fed_pts.add(packet.pts)
            try:
                frames = packet.decode()
            except av.FFmpegError as err:
                errors.append(err)
                continue
            for frame in frames:
                if total == 0 and frame.pts is not None:
                    first_pts = frame.pts
                # A frame without a timestamp follows the frame before it.
                time_s = end_s if frame.pts is None else float(frame.pts * frame.time_base) - zero_s
                first_s = time_s if total == 0 else first_s
                end_s = time_s + step_s
                shown_pts.add(frame.pts)
                if total in wanted:
                    pictures[total] = convert(frame)
                    times_s[total] = time_s
                total += 1
        lost = len(errors)
        if _one_to_one(container, stream):
            # Decoders also drop damaged pictures without an error. Before the first frame this is not damage:
            # a clip that was cut without re-encoding may begin with pictures that need frames which were cut
            # off.
            lost = sum(pts > first_pts for pts in fed_pts - shown_pts)
    if lost > LOST_SHARE * (total + lost):
        raise UnreadableMedia(
            path,
            f"only {total} of {total + lost} frames could be decoded "
            f"({errors[0].strerror if errors else 'damaged packets'}). Download it again or convert it.",
        ) from (errors[0] if errors else None)
    if total == 0:
        raise EmptyMedia(path, "has a video track without a single frame. Download it again.")
    return Picked(indices, pictures, times_s, total, end_s - first_s, through_index=False, lost_frames=lost)


def _one_to_one(container: Any, stream: Any) -> bool:
    """Return whether each packet contains one picture that is shown."""
    is_single = stream.codec_context.name in ("h264", "hevc", "vp9", "mjpeg")
    return is_single and not CONTAINERS.isdisjoint(container.format.name.split(","))
