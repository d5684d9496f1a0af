"""Files that are whole or absent, whatever ends the process that writes them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Write a file under a temporary name and rename it once its bytes are on disk.

    Args:
        path: The file. Temporary names begin with a dot and its name.
        write: Writes the file it is given.
        keep: Name under which the file that is replaced stays, in place of what has that name.
    """
    temporary = _temporary(path)
    try:
        write(temporary)
        _flush(temporary)
        if keep is not None and path.is_file():
            _keep(path, keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)  # the rename itself


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of a file have left; it must have no other writer now."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        with suppress(FileNotFoundError):
            leftover.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def _keep(path: Path, keep: Path) -> None:
    second = _temporary(path)
    try:
        second.hardlink_to(path)
    except OSError:  # a file system without links: until the new file is renamed there is only the kept one
        path.replace(keep)
    else:
        second.replace(keep)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
