"""Seeded damage to media and manifest files: bit flips, cuts, foreign headers, huge declared sizes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

Damage = Callable[[bytearray, random.Random, bytes], bytearray]


def flip_bits(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Flip up to 40 bits anywhere."""
    for _ in range(draw.randint(1, 40)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def flip_header(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Flip bits in the first 256 bytes only."""
    for _ in range(draw.randint(1, 12)):
        data[draw.randrange(min(256, len(data)))] ^= 1 << draw.randrange(8)
    return data


def cut(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Keep the beginning."""
    return data[: draw.randrange(len(data))]


def swap_header(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Put the beginning of a file of another kind in front of the rest."""
    at = draw.choice((8, 16, 32, 64, 128))
    return bytearray(other[:at]) + data[at:]


def huge_sizes(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Overwrite 4-byte fields, in the places where headers keep sizes, by huge numbers."""
    places = [i for i in range(0, min(len(data) - 4, 4096), 2) if data[i] == 0 and data[i + 1] == 0]
    for at in draw.sample(places, min(len(places), 3)) or [4]:
        value = draw.choice((0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x10000000, 0))
        data[at : at + 4] = struct.pack(draw.choice("<>") + "I", value)
    for marker in (b"mvhd", b"tkhd", b"stsz", b"stts", b"IHDR", b"\xff\xc0", b"fmt ", b"data"):
        at = bytes(data).find(marker)
        if at >= 0 and draw.random() < 0.3:
            at += len(marker) + draw.choice((0, 1, 3, 4, 8, 12, 16))
            data[at : at + 4] = b"\xff\xff\xff\xfe"
    return data


def repeat(data: bytearray, draw: random.Random, other: bytes) -> bytearray:
    """Repeat a piece many times."""
    at = draw.randrange(len(data))
    piece = data[at : at + draw.randint(1, 64)]
    return data[:at] + piece * draw.randint(10, 500) + data[at:]


DAMAGES: tuple[Damage, ...] = (flip_bits, flip_header, cut, swap_header, huge_sizes, repeat)


def damaged(data: bytes, seed: int, other: bytes) -> bytes:
    """Return a damaged copy; the seed chooses how."""
    draw = random.Random(seed)
    made = DAMAGES[seed % len(DAMAGES)](bytearray(data), draw, other)
    return bytes(made)
