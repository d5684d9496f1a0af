"""Whether a file is as long as its container says, from the outermost boxes alone.

Decoders do not tell: a cut mkv, webm or avi file simply plays as a shorter clip. The sizes that mp4 (and
mov, m4a), Matroska (mkv, webm) and RIFF (avi, wav) write down do. A cut mp3 cannot be told from a short one:
it is a bare chain of packets.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

# Some writers count the 8 bytes of the RIFF header in, or leave the padding byte out.
_RIFF_SLACK_BYTES = 8
# Writers to a pipe do not know the size and leave one of these.
_RIFF_UNKNOWN = frozenset({0, 0x7FFFFFFF, 0xFFFFFFFF})
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """Return how many bytes the file lacks at its end; 0 where it is whole or its container does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little")
            slack = _RIFF_SLACK_BYTES
            end = 0 if declared in _RIFF_UNKNOWN else 8 + declared
            return max(0, end - size) if end - size > slack else 0
        if head[:4] == _EBML:
            return max(0, _matroska_end(file) - size)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return max(0, _mp4_end(file, size) - size)
    return 0


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Return where the last box with content ends."""
    at, end = 0, 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # up to the end of the file
            break
        if length < 8:  # not a box: junk behind the last one, which players ignore too
            break
        at += length
        if header[4:8] in (b"mdat", b"moov", b"moof"):
            end = at
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Return where the segment ends; 0 when its size is not known (live recordings)."""
    file.seek(4)
    header_length = _vint(file)
    if header_length is None:
        return 0
    file.seek(header_length, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """Read an EBML number; None for the reserved value (all ones) that means unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if value == (1 << (7 * (extra + 1))) - 1 else value
