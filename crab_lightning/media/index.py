"""The packets of a video track: their frames, their order, and where decoding can start."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crab_lightning.media.errors import EmptyMedia

CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm", "avi"})


class NotIndexable(Exception):
    """The packet index may not give the same frames as decoding the whole file."""


@dataclass(frozen=True)
class Segment:
    """Consecutive packets, in decoding order, which are decoded from an entry point.

    Args:
        first: Position of the entry point.
        last: Position of the last packet that a wanted frame needs.
        wanted_pts: Timestamps of the wanted frames in the segment.
    """

    first: int
    last: int
    wanted_pts: frozenset[int]


@dataclass(frozen=True)
class Codec:
    """Properties of a codec.

    Args:
        entries: Function ``(packets, extradata) -> positions`` that finds the packets which reset the
            decoder, so that decoding may start there.
        may_skip: Whether a frame to which no other frame refers can be left out without changing other
            frames.
    """

    entries: Callable[[list[Any], bytes], list[int]]
    may_skip: bool


@dataclass
class PacketIndex:
    """All packets of one video track, compressed, in decoding order.

    Args:
        packets: The packets.
        entries: Positions from which decoding may start, ascending.
        shown_pts: Timestamps of the shown frames, ascending.
        time_base: Seconds in one unit of a timestamp.
        duration_s: Time in seconds from the start of the first frame to the end of the last frame.
        may_skip: As ``Codec.may_skip``.
    """

    packets: list[Any]
    entries: list[int]
    shown_pts: list[int]
    time_base: float
    duration_s: float
    may_skip: bool

    @property
    def total(self) -> int:
        """Number of frames that are shown."""
        return len(self.shown_pts)

    def time_s(self, pts: int, zero_s: float) -> float:
        """Return the time of a timestamp in seconds from the beginning of the clip."""
        return pts * self.time_base - zero_s

    @classmethod
    def of(cls, path: Path, container: Any, stream: Any) -> PacketIndex:
        """Read the packets of a track.

        Raises:
            NotIndexable: If rule 1 or 2 of ``media.pick`` is not fulfilled.
            EmptyMedia: If there is no packet.
        """
        codec = CODECS.get(stream.codec_context.name)
        if codec is None or CONTAINERS.isdisjoint(container.format.name.split(",")):
            raise NotIndexable(f"{stream.codec_context.name} in {container.format.name}")
        packets = list(container.demux(stream))[:-1]  # the last one only flushes the decoder
        if not packets:
            raise EmptyMedia(path, "has a video track without a single frame. Download it again.")
        pts = [packet.pts for packet in packets]
        if None in pts or len(set(pts)) < len(pts):
            raise NotIndexable("packets without a timestamp of their own")
        if any(p.size == 0 or p.is_corrupt or p.has_sidedata("new_extradata") for p in packets):
            raise NotIndexable("empty or damaged packets, or a codec header that changes midway")
        entries = codec.entries(packets, stream.codec_context.extradata or b"")
        if not entries or entries[0] != 0:
            raise NotIndexable("the first packet cannot be decoded alone")
        shown = sorted(p.pts for p in packets if not p.is_discard)
        if not shown:
            raise EmptyMedia(path, "has a video track without a single shown frame. Download it again.")
        last = max((p for p in packets if not p.is_discard), key=lambda p: p.pts)
        time_base = float(stream.time_base)
        step = last.duration or (1.0 / float(stream.average_rate or 25)) / time_base
        return cls(
            packets=packets,
            entries=entries,
            shown_pts=shown,
            time_base=time_base,
            duration_s=(shown[-1] - shown[0] + step) * time_base,
            may_skip=codec.may_skip,
        )

    def segments(self, wanted_pts: set[int]) -> list[Segment]:
        """Return the packets that must be decoded for the frames with these timestamps."""
        runs: dict[int, list[int]] = {}
        for position, packet in enumerate(self.packets):
            if packet.pts in wanted_pts:
                entry = bisect_right(self.entries, position) - 1
                # A frame that is shown before its entry point also needs earlier frames.
                while entry > 0 and self.packets[self.entries[entry]].pts > packet.pts:
                    entry -= 1
                runs.setdefault(self.entries[entry], []).append(position)
        return [
            Segment(first, max(positions), frozenset(self.packets[p].pts for p in positions))
            for first, positions in sorted(runs.items())
        ]


def _key_frames(packets: list[Any], extradata: bytes) -> list[int]:
    return [position for position, packet in enumerate(packets) if packet.is_keyframe]


def _mpeg4_entries(packets: list[Any], extradata: bytes) -> list[int]:
    # "DivX503b1393p": the p means that some packets contain two frames and others none.
    if re.search(rb"DivX\d+(b|Build)\d+p", extradata + bytes(packets[0])):
        raise NotIndexable("packed B-frames")
    return _key_frames(packets, extradata)


def _h264_entries(packets: list[Any], extradata: bytes) -> list[int]:
    # avcC keeps the size of its length fields in byte 4; without avcC there are start codes.
    length_bytes = (extradata[4] & 3) + 1 if len(extradata) >= 7 and extradata[0] == 1 else 0
    entries, parameters_came = [], False
    for position, packet in enumerate(packets):
        kinds = {header & 31 for header in _nal_headers(memoryview(packet), length_bytes)}
        # Only an IDR picture is an entry point, because a key frame of an open GOP needs earlier frames. If
        # parameter sets were in earlier packets, they must be here again, or older ones with the same number
        # would be used.
        if packet.is_keyframe and _IDR in kinds and (not parameters_came or kinds >= _PARAMETER_SETS):
            entries.append(position)
        parameters_came = parameters_came or not kinds.isdisjoint(_PARAMETER_SETS)
    return entries


_IDR = 5
_PARAMETER_SETS = frozenset({7, 8})


def _nal_headers(data: memoryview, length_bytes: int) -> list[int]:
    """Return the first byte of every NAL unit in a packet."""
    if length_bytes == 0:
        return [match.group(1)[0] for match in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL)]
    headers, at = [], 0
    while at + length_bytes < len(data):
        headers.append(data[at + length_bytes])
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
    return headers


CODECS = {
    # nal_ref_idc says which pictures are never referred to, and the decoder uses it.
    "h264": Codec(_h264_entries, may_skip=True),
    # B-VOPs are never referred to in MPEG-4 part 2.
    "mpeg4": Codec(_mpeg4_entries, may_skip=True),
    # A skipped frame would not update the probabilities with which later frames are coded.
    "vp9": Codec(_key_frames, may_skip=False),
    "mjpeg": Codec(_key_frames, may_skip=False),
}
