"""Stores decoded tensors on disk in append-only shards, which several processes can read and write.

Each process that writes has its own shard. ``<name>.bin`` contains the raw tensors one after the other, and
``<name>.idx`` contains one entry of fixed size for each tensor. A record is written before its entry, and it
only exists when its entry is complete and has the right checksum. So a process that is killed leaves at most
some unused bytes, and no lock is needed. Records are never changed. If a key has several records, the newest
one is used.

A record is read into a new tensor with one positioned read, and not with a memory map. This is as fast, and a
shard that was cut off gives a short read, whereas a memory map would end the process.
"""

from __future__ import annotations

import math
import os
import stat
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Key = tuple[int, int]

_ENTRY = np.dtype(
    [
        ("key", "<u8", 2),
        ("made_ns", "<u8"),
        ("shard", "<u8"),
        ("offset", "<u8"),
        ("bytes", "<u8"),
        ("duration_s", "<f8"),
        ("shape", "<u4", 4),
        ("checksum", "<u4"),
        ("dims", "u1"),
        ("kind", "u1"),
        ("spare", "<u2"),
        ("crc", "<u4"),  # of all fields before it
    ]
)
_BODY_BYTES = _ENTRY.itemsize - 4
_UINT8, _FLOAT32, _PCM16 = range(3)
_MOST_DIMS = 4
_TYPES = {_UINT8: torch.uint8, _FLOAT32: torch.float32, _PCM16: torch.int16}
_SHARD_BYTES = 2**31
_OPEN_SHARDS = 64
_REFRESH_S = 1.0
_ALIGN_BYTES = 64


class CorruptRecord(Exception):
    """The bytes of a record are not those that were written."""


class CacheFull(Exception):
    """The cache has reached its largest size, or the disk is full."""


@dataclass(frozen=True)
class Record:
    """The place and the form of a stored tensor.

    Args:
        shard: Number of the shard. Its hexadecimal form is the name of the file.
        offset: Position in the shard in bytes.
        bytes: Size of the stored tensor in bytes.
        shape: Shape of the tensor.
        kind: Number of the type in which the values are stored.
        checksum: CRC-32 of the bytes.
        duration_s: Length of the clip in seconds.
        made_ns: Time at which the record was written, in nanoseconds since 1970.
    """

    shard: int
    offset: int
    bytes: int
    shape: tuple[int, ...]
    kind: int
    checksum: int
    duration_s: float
    made_ns: int


_PLAIN = ("shard", "offset", "bytes", "kind", "checksum", "duration_s", "made_ns")
"""Fields of a record that have the same name in an index entry."""


class ShardStore:
    """A folder of shards.

    Args:
        folder: The folder, which is made when something is written.
        max_bytes: Largest size of the folder. It may be exceeded by one record of each writing process.
            ``None`` for no limit.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._index = np.empty(0, _ENTRY)  # sorted by the first half of the key
        self._heads: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: dict[Key, Record] = {}
        self._read_bytes: dict[str, int] = {}
        self._refreshed = 0.0
        self._open: OrderedDict[int, int] = OrderedDict()
        self._sound: set[tuple[int, int]] = set()
        self._writer: _Writer | None = None
        self._held = (0, 0.0)
        self._index = self._sorted(self._new_entries())

    def __getstate__(self) -> dict[str, Any]:
        # Open files are not pickled; the index is read again.
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def find(self, key: Key) -> Record | None:
        """Return the newest record of a key that this process knows."""
        if (recent := self._recent.get(key)) is not None:
            return recent
        at = int(np.searchsorted(self._heads, np.uint64(key[0])))
        while at < len(self._heads) and int(self._heads[at]) == key[0]:
            if int(self._index[at]["key"][1]) == key[1]:
                return _record(self._index[at])
            at += 1
        return None

    def refresh(self) -> bool:
        """Read the entries that other processes have written, at most once each second.

        Returns:
            Whether there were new entries.
        """
        now = time.monotonic()
        if now - self._refreshed < _REFRESH_S:
            return False
        self._refreshed = now
        entries = self._new_entries()
        for entry in entries:
            self._remember((int(entry["key"][0]), int(entry["key"][1])), _record(entry))
        return len(entries) > 0

    def load(self, record: Record) -> Tensor:
        """Read a record. When this process reads it for the first time, its checksum is compared.

        Raises:
            CorruptRecord: If the bytes are not those that were written, or cannot be read.
        """
        place = (record.shard, record.offset)
        try:
            file, done = self._shard(record.shard), 0
            if place not in self._sound:
                _check(record, os.fstat(file).st_size)
            stored = torch.empty(record.bytes, dtype=torch.uint8)
            view = _bytes_of(stored)
            while done < record.bytes:
                count = os.preadv(file, [view[done:]], record.offset + done)
                if count == 0:
                    raise CorruptRecord("the shard ends before it")
                done += count
        except OSError as err:
            raise CorruptRecord(f"the shard cannot be read ({err.strerror})") from err
        if place not in self._sound:
            if zlib.crc32(view) != record.checksum:
                raise CorruptRecord("its checksum is wrong")
            self._sound.add(place)
        tensor = stored.view(_TYPES[record.kind]).reshape(record.shape)
        return tensor.float().div_(32768) if record.kind == _PCM16 else tensor

    def append(self, keys: Sequence[Key], tensor: Tensor, duration_s: float) -> None:
        """Write a tensor and give the record some keys.

        Raises:
            CacheFull: If the folder has reached its largest size, or cannot be written.
        """
        kind, stored = _pack(tensor)
        data = _bytes_of(stored.contiguous().view(torch.uint8).reshape(-1))
        if self.max_bytes is not None and self._size() + len(data) > self.max_bytes:
            raise CacheFull(f"it has reached its largest size of {self.max_bytes / 1e9:g} GB")
        try:
            writer = self._writing()
            record = Record(
                shard=writer.shard,
                offset=writer.write(data),
                bytes=len(data),
                shape=tuple(tensor.shape),
                kind=kind,
                checksum=zlib.crc32(data),
                duration_s=duration_s,
                made_ns=time.time_ns(),
            )
            writer.add([_entry(key, record) for key in keys])
        except OSError as err:
            raise CacheFull(f"it cannot be written ({err.strerror})") from err
        for key in keys:
            self._remember(key, record)
        self._held = (self._held[0] + len(data), self._held[1])

    def alias(self, key: Key, record: Record) -> None:
        """Give an existing record another key.

        Raises:
            CacheFull: If the folder cannot be written.
        """
        try:
            self._writing().add([_entry(key, record)])
        except OSError as err:
            raise CacheFull(f"it cannot be written ({err.strerror})") from err
        self._remember(key, record)

    def _remember(self, key: Key, record: Record) -> None:
        known = self.find(key)
        if known is None or known.made_ns <= record.made_ns:
            self._recent[key] = record

    def _writing(self) -> _Writer:
        """Return the open shard of this process, and never one that a fork has inherited."""
        if self._writer is None or self._writer.process != os.getpid() or self._writer.end > _SHARD_BYTES:
            if self._writer is not None:
                self._writer.close()
            self._writer = _Writer(self.folder)
        return self._writer

    def _shard(self, number: int) -> int:
        """Return the open file of a shard. Only a limited number of files stays open."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        # Without O_NONBLOCK, opening a pipe with the name of a shard would never return.
        file = os.open(self.folder / f"{number:016x}.bin", os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise CorruptRecord("the shard is not a file")
        self._open[number] = file
        return file

    def _size(self) -> int:
        """Return the size of the folder, which is read once each second and updated by own writes."""
        held, when = self._held
        if (now := time.monotonic()) - when > _REFRESH_S:
            held = 0
            with suppress(FileNotFoundError), os.scandir(self.folder) as files:
                held = sum(file.stat().st_size for file in files if file.is_file())
            self._held = (held, now)
        return held

    def _new_entries(self) -> NDArray[Any]:
        found = [np.empty(0, _ENTRY)]
        with suppress(FileNotFoundError), os.scandir(self.folder) as files:
            for file in files:
                if not file.name.endswith(".idx") or not file.is_file():
                    continue
                begin = self._read_bytes.get(file.name, 0)
                # An incomplete entry is being written at the moment, or its writer was killed.
                end = file.stat().st_size // _ENTRY.itemsize * _ENTRY.itemsize
                if end > begin:
                    with open(file.path, "rb") as index:  # noqa: PTH123 - an entry of scandir
                        index.seek(begin)
                        data = index.read(end - begin)
                    found.append(_valid(data[: len(data) // _ENTRY.itemsize * _ENTRY.itemsize]))
                    self._read_bytes[file.name] = begin + len(data)
        return np.concatenate(found)

    def _sorted(self, entries: NDArray[Any]) -> NDArray[Any]:
        order = np.lexsort((entries["made_ns"], entries["key"][:, 1], entries["key"][:, 0]))
        entries = entries[order]
        if len(entries):
            newest = np.append(np.any(entries["key"][1:] != entries["key"][:-1], axis=1), True)
            entries = entries[newest]
        self._heads = np.ascontiguousarray(entries["key"][:, 0])
        return entries


def _check(record: Record, shard_bytes: int) -> None:
    """Check that an entry is consistent, also if its checksum is right.

    Raises:
        CorruptRecord: If its fields do not fit together, or do not fit the shard.
    """
    if record.kind not in _TYPES or len(record.shape) > _MOST_DIMS or not 0 <= record.duration_s < math.inf:
        raise CorruptRecord("its entry is not one of this cache")
    if math.prod(record.shape) * _TYPES[record.kind].itemsize != record.bytes:
        raise CorruptRecord("its length is not that of its shape")
    if record.offset + record.bytes > shard_bytes:
        raise CorruptRecord("the shard ends before it")


class _Writer:
    """A shard of this process."""

    def __init__(self, folder: Path) -> None:
        self.process = os.getpid()
        folder.mkdir(parents=True, exist_ok=True)
        self.shard = int.from_bytes(os.urandom(8), "big")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self._data = os.open(folder / f"{self.shard:016x}.bin", flags, 0o644)
        self._index = os.open(folder / f"{self.shard:016x}.idx", flags, 0o644)
        self.end = 0

    def write(self, data: memoryview) -> int:
        """Append bytes and return their position. After an error, the file has its earlier length."""
        end = os.fstat(self._data).st_size
        offset = end + -end % _ALIGN_BYTES
        try:
            _write_all(self._data, bytes(offset - end))
            _write_all(self._data, data)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._data, end)
            raise
        # The end is read from the file above, because a write that an alarm interrupts may leave bytes.
        self.end = offset + len(data)
        return offset

    def add(self, entries: Sequence[bytes]) -> None:
        """Write the index entries of records, either all or none."""
        end = os.fstat(self._index).st_size
        try:
            _write_all(self._index, b"".join(entries))
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._index, end)
            raise

    def close(self) -> None:
        os.close(self._data)
        os.close(self._index)


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.numpy()  # numpy's stubs do not say that an array is a buffer
    return memoryview(array)


def _write_all(file: int, data: memoryview | bytes) -> None:
    done = 0
    while done < len(data):
        done += os.write(file, data[done:])


def _pack(tensor: Tensor) -> tuple[int, Tensor]:
    """Choose how a tensor is stored: as 16-bit integers if this is exact, since they need half the space."""
    if tensor.dtype == torch.uint8:
        return _UINT8, tensor
    if tensor.dtype != torch.float32:
        raise TypeError(f"a record is uint8 or float32, not {tensor.dtype}")
    whole = (tensor * 32768).round_().clamp_(-32768, 32767).to(torch.int16)
    # The bits are compared, because -0.0 and NaN must be restored exactly.
    if torch.equal((whole.float() / 32768).view(torch.int32), tensor.contiguous().view(torch.int32)):
        return _PCM16, whole
    return _FLOAT32, tensor


def _entry(key: Key, record: Record) -> bytes:
    entry = np.zeros(1, _ENTRY)
    entry["key"], entry["dims"] = key, len(record.shape)
    for name in _PLAIN:
        entry[name] = getattr(record, name)
    entry["shape"][0, : len(record.shape)] = record.shape
    body = entry.tobytes()[:_BODY_BYTES]
    return body + zlib.crc32(body).to_bytes(4, "little")


def _valid(data: bytes) -> NDArray[Any]:
    entries = np.frombuffer(data, _ENTRY)
    size = _ENTRY.itemsize
    view = memoryview(data)
    crcs = (zlib.crc32(view[at : at + _BODY_BYTES]) for at in range(0, len(data), size))
    valid: NDArray[Any] = entries[np.fromiter(crcs, np.uint32, len(entries)) == entries["crc"]]
    return valid


def _record(entry: NDArray[Any]) -> Record:
    shape = tuple(entry["shape"][: int(entry["dims"])].tolist())
    return Record(shape=shape, **{name: entry[name].item() for name in _PLAIN})
