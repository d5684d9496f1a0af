"""Manifest files on disk: strict JSON, and which media files exist."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

ANNOTATIONS = "AVUIE_2"
MANIFEST_BYTES = 2**30  # the largest released file has some tens of megabytes


class ManifestError(ValueError):
    """A manifest that cannot be read as it stands; the message names file, row, key and remedy."""


class RowError(ManifestError):
    """One row that cannot be read.

    Args:
        row: Zero-based row.
        message: The whole message.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[type[RowError], tuple[int, str]]:
        # Exceptions travel between processes by pickle, which would call __init__ with the message alone.
        return type(self), (self.row, str(self))


def load_rows(path: Path, where: str, root: Path) -> list[Any]:
    """Return the rows of a manifest file."""
    try:
        if (size := path.stat().st_size) > MANIFEST_BYTES:
            raise ManifestError(
                f"{where}: {path} has {size:,} bytes; a manifest has at most {MANIFEST_BYTES:,}. Is it a "
                "media file? Split it into several datasets if it is not."
            )
        text = path.read_bytes().decode("utf-8-sig")  # a byte order mark is harmless: some editors add one
    except FileNotFoundError:
        raise ManifestError(f"{where}: {path} does not exist. {_hint(path, root)}") from None
    except OSError as err:
        raise ManifestError(f"{where}: {path} cannot be read ({err.strerror}).") from err
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{where}: {path} is not UTF-8 (byte {err.object[err.start]:#04x} at offset {err.start}). "
            "Save it as UTF-8."
        ) from err

    def refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            twin = next(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
            raise ManifestError(
                f"{where}: {path}: key {twin!r} stands twice in one object that begins {show(row)}. "
                "Keep one of the two."
            )
        return row

    def refuse_constant(name: str) -> NoReturn:
        raise ManifestError(
            f"{where}: {path} holds {name}, which is not JSON. Write a number, or remove the row."
        )

    try:
        rows = json.loads(text, object_pairs_hook=refuse_twins, parse_constant=refuse_constant)
    except json.JSONDecodeError as err:
        if _is_json_lines(text):
            raise ManifestError(
                f"{where}: {path} holds JSON lines (one object in each line). One JSON array of objects is "
                "expected: put a comma between the lines, and [ and ] around them."
            ) from err
        raise ManifestError(
            f"{where}: {path} is not JSON: {err.msg} at line {err.lineno}, column {err.colno}. "
            "Was it cut off while copying? One JSON array of objects is expected."
        ) from err
    except ManifestError:
        raise
    except (ValueError, RecursionError) as err:
        raise ManifestError(f"{where}: {path} is not JSON that can be read: {err}.") from err
    if not isinstance(rows, list):
        raise ManifestError(f"{where}: {path} holds {kind_of(rows)}; one JSON array of objects is expected.")
    return rows


def _is_json_lines(text: str) -> bool:
    """Whether the first two lines are objects, each by itself."""
    lines = [line for line in text.lstrip()[:10_000_000].split("\n", 2)[:2] if line.strip()]
    try:
        return len(lines) > 0 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def near_name(path: Path) -> str:
    """Say what a missing file may be called instead; empty where nothing is near.

    A name with back-slashes is one name here; the same letters can be written in two ways in Unicode (NFC and
    NFD), which look alike; and most systems tell small letters from capitals.
    """
    if "\\" in path.name:
        return " Its name has back-slashes; write / between folders and file."
    for place in reversed((path, *path.parents)):
        if place.exists() or not place.parent.is_dir():
            continue
        wanted = unicodedata.normalize("NFC", place.name)
        for entry in sorted(child.name for child in place.parent.iterdir()):
            found = unicodedata.normalize("NFC", entry)
            if found == wanted:
                return (
                    f" {place.parent} has {entry!r}, whose letters look the same and are written in another "
                    "form of Unicode: rename it, or write the manifest in that form."
                )
            if found.casefold() == wanted.casefold():
                return f" {place.parent} has {entry!r}: small letters and capitals differ."
        break
    return ""


def _hint(path: Path, root: Path) -> str:
    """Say what to change about a manifest that is not where it should be."""
    if not root.is_dir():
        return f"data.root {str(root)!r} is not a folder; set it to the folder that holds {ANNOTATIONS}/."
    if not (root / ANNOTATIONS).is_dir():
        parent = " (its parent folder, it seems)" if root.name == ANNOTATIONS else ""
        return f"data.root {str(root)!r} holds no {ANNOTATIONS}/; set it to the folder that does{parent}."
    if not path.parent.is_dir():
        found = ", ".join(sorted(p.name for p in (root / ANNOTATIONS).iterdir() if p.is_dir())) or "nothing"
        return f"{ANNOTATIONS}/ holds: {found}. Set `folder`, or take the row out of data.datasets."
    found = ", ".join(sorted(p.name for p in path.parent.glob("*.json"))) or "no manifest"
    return f"Its folder holds: {found}. Add the file, or take the row out of data.datasets."


class ExistingFiles:
    """Tells whether files exist, from one listing per folder: a stat per file is slow on a network disk."""

    def __init__(self) -> None:
        self.folders: dict[str, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder, name = os.path.split(path)
        if folder not in self.folders:
            try:
                with os.scandir(folder) as entries:
                    self.folders[folder] = frozenset(e.name for e in entries if _is_file(e))
            except OSError:
                self.folders[folder] = frozenset()
        return name in self.folders[folder]


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads in a circle
        return False


def show(value: Any) -> str:
    """Return a value as it is shown in a message, cut to a line."""
    try:
        shown = json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:
        return f"{kind_of(value)} nested too deeply to show"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def kind_of(value: Any) -> str:
    """Return a JSON value's kind as it is shown in a message."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")
