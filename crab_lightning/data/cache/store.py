"""Media decoded once: frames, pictures and 16 kHz sound by content and recipe, for all runs and processes."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from crab_lightning import media
from crab_lightning.data.cache.recipes import Decoded, Recipe
from crab_lightning.data.cache.shards import CacheFull, CorruptRecord, Key, ShardStore
from crab_lightning.data.check.files import content_hash

__all__ = ["CacheError", "CacheStats", "MediaCache"]

_log = logging.getLogger(__name__)
_FORMAT = 1


class CacheError(ValueError):
    """A folder that is no cache of this version."""


@dataclass
class CacheStats:
    """What one process did with a cache.

    Args:
        hits: Records read.
        shared: Files that were found under another name, by their content.
        stored: Media decoded and written.
        unstored: Media decoded and not written, since there was no room.
        repaired: Records that were damaged, decoded again.
    """

    hits: int = 0
    shared: int = 0
    stored: int = 0
    unstored: int = 0
    repaired: int = 0


class MediaCache:
    """Decoded media in a folder that any number of processes and runs share.

    A record belongs to the content of a file and to a recipe (frames, size, window, decoder versions), so a
    changed file or recipe misses and equal files share. A file whose path, length and times are known is not
    read at all; an unknown one is hashed first. A damaged record is decoded again, replaced and reported.
    Once the folder has its size, or the disk is full, files that are not in it are decoded every time.

    Args:
        folder: Where the records are kept; made when the first is written.
        max_bytes: Largest size of the folder; ``None`` for no bound.

    Raises:
        CacheError: If the folder holds something else.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.stats = CacheStats()
        self._closed = False
        self._damaged: set[tuple[int, int]] = set()
        self._mark()
        self._store = ShardStore(self.folder / "shards", max_bytes)

    def __len__(self) -> int:
        """Return the number of keys: one for each content and one for each file."""
        return len(self._store)

    def read(self, path: Path, recipe: Recipe, limits: media.MediaLimits = media.MediaLimits()) -> Decoded:  # noqa: B008
        """Return a medium, from the cache or decoded and kept.

        Raises:
            MediaError: If the file is missing or broken.
            AudioWindowError: If a waveform does not hold the part its window asks for.
        """
        state = _state(path)
        if state is None:
            return recipe.decode(path, limits)  # which says what is wrong
        name = recipe.name()
        file_key = _key(f"{path.absolute()}\0{state}\0{name}")
        if (found := self._load(file_key, path, recipe)) is not None:
            self.stats.hits += 1
            return found
        if self._store.refresh() and (found := self._load(file_key, path, recipe)) is not None:
            self.stats.hits += 1
            return found
        content_key = _key(f"{content_hash(path)}\0{name}")
        if (found := self._load(content_key, path, recipe)) is not None:
            self.stats.shared += 1
            self._keep([file_key], found, known=content_key)
            return found
        decoded = recipe.decode(path, limits)
        # A file that changed while it was read is not what its hash says.
        if _state(path) == state:
            self._keep([file_key, content_key], decoded)
        return decoded

    def holds(self, path: Path, recipe: Recipe) -> bool:
        """Tell whether a file is known to be in the cache, without reading either."""
        state = _state(path)
        key = _key(f"{path.absolute()}\0{state}\0{recipe.name()}")
        return state is not None and self._store.find(key) is not None

    def _load(self, key: Key, path: Path, recipe: Recipe) -> Decoded | None:
        record = self._store.find(key)
        if record is None or (record.shard, record.offset) in self._damaged:
            return None
        try:
            tensor = self._store.load(record)
            if not recipe.fits(tensor):
                raise CorruptRecord("it is of another kind of medium")
            return Decoded(tensor, record.duration_s)
        except CorruptRecord as err:
            self._damaged.add((record.shard, record.offset))
            self.stats.repaired += 1
            _log.warning(
                "%s: the record of %s in shard %016x is damaged (%s); the file is decoded again.",
                self.folder,
                path,
                record.shard,
                err,
            )
            return None

    def _keep(self, keys: list[Key], decoded: Decoded, known: Key | None = None) -> None:
        if self._closed:
            self.stats.unstored += known is None
            return
        try:
            record = None if known is None else self._store.find(known)
            if record is not None:
                self._store.alias(keys[0], record)
            else:
                self._store.append(keys, decoded.tensor, decoded.duration_s)
                self.stats.stored += 1
        except CacheFull as err:
            self._closed = True
            self.stats.unstored += 1
            _log.warning("%s: %s; other clips are decoded every time.", self.folder, err)

    def _mark(self) -> None:
        """Refuse a folder of another kind; mark a new one."""
        mark = self.folder / "cache.json"
        if mark.is_file():
            try:
                found = json.loads(mark.read_bytes()).get("format")
            except (ValueError, AttributeError):
                found = None
            if found != _FORMAT:
                raise CacheError(
                    f"{mark} names format {found}; this version writes {_FORMAT}. Give another "
                    "folder, or remove this one"
                )
            return
        # Another process may be marking the folder right now.
        if self.folder.is_dir() and any(not p.name.startswith("cache.json") for p in self.folder.iterdir()):
            raise CacheError(f"{self.folder} has files and is not a media cache; give another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"cache.json.{os.getpid()}"
        part.write_text(json.dumps({"format": _FORMAT}))
        part.replace(mark)


def _state(path: Path) -> str | None:
    """Return what changes when a file does; ``None`` for a missing file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    # The time of change is kept by the system: tools that restore an old modification time cannot hide.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _key(text: str) -> Key:
    digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
