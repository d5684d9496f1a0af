"""A cache of decoded frames, pictures and 16 kHz sound, which all runs and processes share."""

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
    """A folder is not a media cache of this version."""


@dataclass
class CacheStats:
    """Counts of what one process did with a cache.

    Args:
        hits: Records that were read.
        shared: Files whose content was found under another name.
        stored: Media that were decoded and written.
        unstored: Media that were decoded and not written, because there was not enough space.
        repaired: Damaged records that were decoded again.
    """

    hits: int = 0
    shared: int = 0
    stored: int = 0
    unstored: int = 0
    repaired: int = 0


class MediaCache:
    """Decoded media in a folder that several processes and runs share.

    A record belongs to the content of a file and to a recipe (frames, size, window, decoder versions). So a
    changed file or recipe is decoded again, and equal files share a record. A file with a known path, size
    and times is not read; other files are hashed first. If a record is damaged, a warning names the file,
    which is decoded again and stored. When the folder has reached its largest size, or the disk is full,
    further files are decoded every time.

    Args:
        folder: Folder of the records, which is made if it does not exist.
        max_bytes: Largest size of the folder; ``None`` for no limit.

    Raises:
        CacheError: If the folder contains something else than a cache.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.stats = CacheStats()
        self._closed = False
        self._damaged: set[tuple[int, int]] = set()
        self._mark()
        self._store = ShardStore(self.folder / "shards", max_bytes)

    def read(self, path: Path, recipe: Recipe, limits: media.MediaLimits = media.MediaLimits()) -> Decoded:  # noqa: B008
        """Return a medium from the cache, or decode it and store it.

        Raises:
            MediaError: If the file is missing or damaged.
            AudioWindowError: If the sound does not contain the part of the window.
        """
        state = _state(path)
        if state is None:
            return recipe.decode(path, limits)  # this raises the right error
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
        # If the file has changed while it was read, its hash is wrong.
        if _state(path) == state:
            self._keep([file_key, content_key], decoded)
        return decoded

    def holds(self, path: Path, recipe: Recipe) -> bool:
        """Return whether a file is known to be in the cache, without reading the file or the record."""
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
        """Check that the folder is a cache, or mark a new folder as one."""
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
        # Another process may be marking the folder at the same time.
        if self.folder.is_dir() and any(not p.name.startswith("cache.json") for p in self.folder.iterdir()):
            raise CacheError(f"{self.folder} has files and is not a media cache; give another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"cache.json.{os.getpid()}"
        part.write_text(json.dumps({"format": _FORMAT}))
        part.replace(mark)


def _state(path: Path) -> str | None:
    """Return a text that changes with the file, or ``None`` for a missing file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    # The system sets the time of change (ctime), which tools that restore a modification time do not change.
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _key(text: str) -> Key:
    digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
