"""Reads the tensors of a TensorFlow checkpoint without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Return the float32 tensors of a checkpoint by name.

    The file ``.index`` is a table of LevelDB (sorted entries in blocks, and an index of the blocks), whose
    values are messages of protocol buffers that say where in ``.data`` a tensor lies.
    """
    table = (folder / ".index").read_bytes()
    footer = table[-48:]
    at = _varint(footer, _varint(footer, 0)[1])[1]  # behind the place of a block that is not needed
    data = (folder / ".data-00000-of-00001").read_bytes()
    found = {}
    for _, place in _entries(table, *_place(footer, at)):
        for name, value in _entries(table, *_place(place, 0)):
            about = _message(value)
            if name and about.get(1) == [1]:  # 1: float32
                sizes = _message(about[2][0]).get(2, []) if 2 in about else []
                shape = [_message(size).get(1, [0])[0] for size in sizes]
                start, size = about.get(4, [0])[0], about[5][0]
                found[name.decode()] = np.frombuffer(data, "<f4", size // 4, start).reshape(shape).copy()
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _place(data: bytes, at: int) -> tuple[int, int]:
    start, at = _varint(data, at)
    return start, _varint(data, at)[0]


def _entries(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of the entries of a block; a key leaves out what it shares with the one before."""
    block = table[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key, at = key[:shared] + block[at : at + own], at + own
        yield key, block[at : at + length]
        at += length


def _message(data: bytes) -> dict[int, list]:
    """Return the fields of a message by number, in order; integers and byte strings."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:  # fixed width: the checksum
            value, at = None, at + {1: 8, 5: 4}[kind]
        fields.setdefault(tag >> 3, []).append(value)
    return fields
