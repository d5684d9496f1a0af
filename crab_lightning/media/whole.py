"""Checks whether a media file is complete, from the parts of it that state its length.

Decoders do not notice this: a cut-off mkv, webm, avi, mp3 or flac file plays as a shorter clip. The stated
length is compared with the file:

- mp4, mov, m4a: the sizes of the outermost boxes;
- mkv, webm: the size of the segment;
- avi, wav (also RF64), aiff: the size in the first header;
- mp3: the number of bytes, or else of frames, in a Xing, Info or VBRI header of the first frame;
- flac: the number of samples in the header, compared with the number of the last frame;
- ogg: whether the last page is complete.

A cut-off mp3 file without such a header, and a cut-off aac, amr or mpeg file, cannot be distinguished from a
short file, because these consist only of packets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crab_lightning.spelling import counted

# Some programs also count the 8 bytes of the RIFF header, or do not count the padding byte.
_RIFF_SLACK_BYTES = 8
# Programs that write to a pipe do not know the size and write one of these numbers.
_RIFF_UNKNOWN = frozenset({0, 0x7FFFFFFF, 0xFFFFFFFF})
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
# No clip has more outermost boxes: 4 hours in fragments of a tenth of a second have 288,000.
_MOST_BOXES = 300_000
_MOST_FRAMES = 2_000_000  # of an mp3; 4 hours have 400,000 to 1,200,000
_MOST_TAGS = 16
# Bytes that are searched for the first frame of an mp3, and for the last frame of a flac or ogg file.
_FIRST_BYTES, _LAST_BYTES = 2**13, 2**17


def cut_off(path: Path) -> str | None:
    """Return which part is missing at the end of a file; ``None`` if it is complete or this is not known."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] == b"fLaC":
            return _flac_missing(file, size)
        if head[:4] == b"OggS":
            return _ogg_missing(file, size)
        if head[:3] == b"ID3" or (head[:1] == b"\xff" and _mp3_frame(head[:4]) is not None):
            return _mp3_missing(file, size)
        missing = _end(file, head, size) - size
        return _bytes_missing(missing) if missing > 0 else None


def _bytes_missing(count: int) -> str:
    return f"{counted(count, 'byte')} {'is' if count == 1 else 'are'} missing at its end"


def _end(file: BinaryIO, head: bytes, size: int) -> int:
    """Return where the file should end, or 0 if its format does not state this."""
    declared = 0
    if head[:4] in (b"RIFF", b"FORM"):
        declared = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
    elif head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64":
        file.seek(20)
        declared = int.from_bytes(file.read(8), "little")
    if declared not in _RIFF_UNKNOWN:
        return 8 + declared if 8 + declared - size > _RIFF_SLACK_BYTES else 0
    if head[:4] == _EBML:
        return _matroska_end(file)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _mp4_end(file, size)
    return 0


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Return where the last box with content ends."""
    at, end = 0, 0
    for _ in range(_MOST_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # up to the end of the file
            break
        if length < 8:  # not a box, but data after the last box, which players ignore too
            break
        at += length
        if header[4:8] in (b"mdat", b"moov", b"moof"):
            end = at
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Return where the segment ends, or 0 if its size is not known (live recordings)."""
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
    """Read an EBML number. ``None`` is the reserved value (all ones) for an unknown number."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if value == (1 << (7 * (extra + 1))) - 1 else value


# mp3

_KBITS = {
    # MPEG-1 layer 3, then MPEG-2 and 2.5 layer 3; index 0 is a free rate, 15 is forbidden
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(frozen=True)
class _Mp3Frame:
    """The sizes in the header of an mp3 frame, in bytes."""

    bytes: int
    side_bytes: int


def _mp3_frame(header: bytes) -> _Mp3Frame | None:
    """Read the header of a layer 3 frame, or return ``None`` if there is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = (header[1] >> 3) & 3, (header[1] >> 1) & 3
    rate, kbits = (header[2] >> 2) & 3, header[2] >> 4
    if version == 1 or layer != 1 or rate == 3 or kbits in (0, 15):
        return None
    is_first = version == 3
    rate_hz = _RATES_HZ[version][rate]
    length = (144 if is_first else 72) * 1000 * _KBITS[is_first][kbits] // rate_hz + ((header[2] >> 1) & 1)
    is_mono = header[3] >> 6 == 3
    return _Mp3Frame(length, (17 if is_mono else 32) if is_first else (9 if is_mono else 17))


def _mp3_missing(file: BinaryIO, size: int) -> str | None:
    """Compare an mp3 file with the bytes or frames that its first frame states."""
    file.seek(0)
    start = _after_id3(file)
    file.seek(start)
    data = file.read(_FIRST_BYTES)
    # Search the first frame that another frame follows, because a tag may contain bytes that look like a
    # header.
    for match in re.finditer(rb"\xff[\xe0-\xff]", data):
        at = match.start()
        first = _mp3_frame(data[at : at + 4])
        if first is None:
            continue
        following = data[at + first.bytes : at + first.bytes + 4]
        if len(following) < 4 or _mp3_frame(following) is not None:
            break
    else:
        return None
    frames, stated = _mp3_statement(data[at : at + first.bytes], first)
    if stated is not None:
        # Some programs do not count the frame that contains the number. None counts more frames than there
        # are.
        slack = 2 * stated // frames if frames else first.bytes
        missing = start + at + stated - size
        return _bytes_missing(missing) if missing > slack else None
    if frames is not None:
        found = _mp3_count(file, start + at, size)
        if frames - found > 1 and found < _MOST_FRAMES:
            return f"{frames - found} of its {frames} frames are missing at its end"
    return None


def _mp3_statement(frame: bytes, header: _Mp3Frame) -> tuple[int | None, int | None]:
    """Return the numbers of frames and of bytes that the first frame states."""

    def number(at: int) -> int | None:
        return int.from_bytes(frame[at : at + 4], "big") or None if len(frame) >= at + 4 else None

    at = 4 + header.side_bytes
    if frame[at : at + 4] in (b"Xing", b"Info"):
        flags = number(at + 4) or 0
        frames = number(at + 8) if flags & 1 else None
        return frames, number(at + 8 + 4 * (flags & 1)) if flags & 2 else None
    at = 4 + 32
    if frame[at : at + 4] == b"VBRI":
        return number(at + 14), number(at + 10)
    return None, None


def _mp3_count(file: BinaryIO, at: int, size: int) -> int:
    """Count the frames after the first one by their headers. The last one counts if it is complete."""
    count = -1
    while count < _MOST_FRAMES:
        file.seek(at)
        frame = _mp3_frame(file.read(4))
        if frame is None or at + frame.bytes > size:
            return count
        at += frame.bytes
        count += 1
    return count


def _after_id3(file: BinaryIO) -> int:
    """Return where the tag at the beginning of a file ends."""
    at = 0
    for _ in range(_MOST_TAGS):
        file.seek(at)
        tag = file.read(10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            return at
        length = 0
        for byte in tag[6:10]:
            length = length << 7 | byte & 0x7F
        at += 10 + length + (10 if tag[5] & 0x10 else 0)
    return at


# flac


def _flac_missing(file: BinaryIO, size: int) -> str | None:
    """Compare the last frame of a flac file with the number of samples in its header."""
    file.seek(4)
    block = file.read(4 + 34)
    if len(block) < 38 or block[0] & 0x7F:  # the first block must be the one about the stream
        return None
    total = int.from_bytes(block[17:22], "big") & (2**36 - 1)
    block_samples = int.from_bytes(block[4:6], "big")
    if total == 0:  # written to a pipe
        return None
    begin = max(0, size - _LAST_BYTES)
    file.seek(begin)
    tail = file.read()
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail))):
        end = _flac_frame_end(tail[match.start() : match.start() + 16], block_samples)
        if end is not None:
            # A complete last frame ends with the checksum of its bytes. A tag may follow it.
            is_whole = end > total or _crc16(tail[match.start() :].partition(b"TAG")[0]) == 0
            return None if end >= total and is_whole else _samples_missing(end, total)
    return _samples_missing(0, total)


def _samples_missing(end: int, total: int) -> str:
    if end >= total:
        return "bytes of its last frame are missing"
    return f"at least {total - end} of its {total} samples are missing at its end"


def _flac_frame_end(header: bytes, block_samples: int) -> int | None:
    """Return the number of the sample after a frame, or ``None`` if the bytes are not a frame header."""
    if len(header) < 6:
        return None
    size_code = header[2] >> 4
    number, length = _utf8_number(header[4:])
    if size_code == 0 or header[2] & 15 == 15 or number is None:
        return None
    at = 4 + length
    extra = {6: 1, 7: 2}.get(size_code, 0)
    samples = (
        int.from_bytes(header[at : at + extra], "big") + 1
        if extra
        else 192
        if size_code == 1
        else 576 << (size_code - 2)
        if size_code < 6
        else 256 << (size_code - 8)
    )
    at += extra + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if len(header) <= at or _crc8(header[:at]) != header[at]:
        return None
    # Frames of equal size have a frame number, frames of different sizes have the number of their first
    # sample.
    return (number if header[1] & 1 else number * block_samples) + samples


def _utf8_number(data: bytes) -> tuple[int | None, int]:
    """Read a number that is coded like a character of UTF-8, of up to 36 bits."""
    first = data[0]
    if first < 0x80:
        return first, 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or len(data) < length or any(b & 0xC0 != 0x80 for b in data[1:length]):
        return None, 0
    value = first & (0x7F >> length)
    for byte in data[1:length]:
        value = value << 6 | byte & 0x3F
    return value, length


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


_CRC16 = []
for _byte in range(256):
    _crc = _byte << 8
    for _ in range(8):
        _crc = (_crc << 1 ^ 0x8005) & 0xFFFF if _crc & 0x8000 else _crc << 1
    _CRC16.append(_crc)


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


# ogg


def _ogg_missing(file: BinaryIO, size: int) -> str | None:
    """Return which part of the last page of an ogg file is missing, or ``None``."""
    begin = max(0, size - _LAST_BYTES)
    file.seek(begin)
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return None
    page = tail[at:]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    length = 27 + page[26] + sum(lengths) if len(page) > 26 and len(lengths) == page[26] else len(page) + 1
    missing = length - len(page)
    return f"at least {_bytes_missing(missing)}" if missing > 0 else None
