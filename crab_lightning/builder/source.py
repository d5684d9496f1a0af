"""The folders in which a dataset lies as its owner publishes it: what is there, found by name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from crab_lightning.files import walked

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv")
AUDIO = (".wav", ".mp3", ".m4a", ".flac", ".ogg")


class AnnotationError(ValueError):
    """An annotation file that is not what its owner publishes; the message names file, line and remedy."""


class Source:
    """What lies under the folders of one dataset.

    Files are found by their name, with as many folders before it as are needed to tell them apart, so that
    it does not matter how deep the owner's archive was unpacked. Names are compared with their case: YouTube
    ids that differ in case alone are different clips.

    Args:
        folders: Folders that hold the annotation files and the media.
        without: A folder that is not looked into: the data root may lie inside the source.

    Raises:
        NotADirectoryError: If one of them is no folder.
    """

    def __init__(self, folders: Sequence[Path], without: Path | None = None) -> None:
        self.folders = tuple(folders)
        self._files: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for folder in folders:
            if not folder.is_dir():
                raise NotADirectoryError(f"--source {folder}: there is no such folder")
            for where, names in walked(folder, without):
                for name in names:
                    self._files.setdefault(name, []).append(f"{where}/{name}")
                    stem, dot, _ = name.rpartition(".")
                    self._stems.setdefault(stem if dot else name, []).append(f"{where}/{name}")

    def file(self, tail: str, inside: str = "") -> Path | None:
        """Return the file whose path ends in ``tail``; the least deep one of several.

        Args:
            tail: File name, with folders before it where they tell files apart.
            inside: Name of a folder that has to stand somewhere in the path; any when empty.
        """
        name = tail.rpartition("/")[2]
        return _best(p for p in self._files.get(name, ()) if _fits(p, tail, inside))

    def media(self, stem: str, endings: Sequence[str] = VIDEO, inside: str = "") -> Path | None:
        """Return the media file whose path without its ending ends in ``stem``.

        Args:
            stem: File name without ending, with folders before it where they tell files apart.
            endings: Endings in the order of preference, in lower case.
            inside: Name of a folder that has to stand somewhere in the path; any when empty.
        """
        name = stem.rpartition("/")[2]
        found: dict[str, list[str]] = {}
        for path in self._stems.get(name, ()):
            root, _, ending = path.rpartition(".")
            if _fits(root, stem, inside):
                found.setdefault("." + ending.lower(), []).append(path)
        return next((_best(found[ending]) for ending in endings if ending in found), None)

    def annotation(self, *tails: str) -> Path:
        """Return the first of some annotation files that is there.

        Raises:
            FileNotFoundError: If none is.
        """
        for tail in tails:
            if (path := self.file(tail)) is not None:
                return path
        where = ", ".join(map(str, self.folders))
        raise FileNotFoundError(
            f"--source {where}: there is no {' and no '.join(tails)} in it or in a folder below. "
            "Give the folder of the annotation files too: --source takes several folders."
        )


def _fits(path: str, tail: str, inside: str) -> bool:
    return (path == tail or path.endswith("/" + tail)) and (not inside or f"/{inside}/" in path)


def _best(paths: Iterable[str]) -> Path | None:
    ranked = sorted(paths, key=lambda path: (path.count("/"), path))
    return Path(ranked[0]) if ranked else None


def read_text(path: Path) -> str:
    """Return the text of an annotation file; a byte order mark is dropped.

    Raises:
        AnnotationError: If it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise AnnotationError(
            f"{path} is not UTF-8 (byte {err.object[err.start]:#04x} at offset {err.start}). "
            "Fetch the file again, or save it as UTF-8."
        ) from err


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line that is not blank, whatever its line end."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def read_table(
    path: Path, separator: str = ",", columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with a head line.

    Args:
        path: The file.
        separator: Between two cells.
        columns: Names that the head must hold, in any order and any case; more columns are allowed.

    Yields:
        Line number (from 1) and the cells by their name in ``columns`` (all by their own name if left out).

    Raises:
        AnnotationError: If the head lacks a column, or a row has not as many cells as the head.
    """
    rows = _cells(path, separator)
    head = [cell.strip() for cell in next(rows, (0, []))[1]]
    at = {name.lower(): i for i, name in enumerate(head)}
    wanted = list(columns or head)
    if lost := [name for name in wanted if name.lower() not in at]:
        raise AnnotationError(
            f"{path}: the head line is {separator.join(head)!r}; it must name {', '.join(lost)}. "
            "Is it another file of the same name, or was its head line removed?"
        )
    for line, cells in rows:
        if len(cells) != len(head):
            raise AnnotationError(
                f"{path}, line {line}: {len(cells)} cells, but the head line has {len(head)}. "
                "Correct the line, or fetch the file again."
            )
        yield line, {name: cells[at[name.lower()]] for name in wanted}


def read_bare(path: Path, count: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of a table without a head line.

    Raises:
        AnnotationError: If a row has not ``count`` cells.
    """
    for line, cells in _cells(path, ","):
        if len(cells) != count:
            raise AnnotationError(
                f"{path}, line {line}: {len(cells)} cells instead of {count}. "
                "Correct the line, or fetch the file again."
            )
        yield line, cells


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends.

    ``str.splitlines`` would also break at U+0085 and U+2028, which stand within cells: MELD's three dots were
    once byte 0x85.
    """
    return iter(io.StringIO(read_text(path), newline=""))


def _cells(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not blank.

    Raises:
        AnnotationError: If a quote is not closed: all that follows would become one cell.
    """
    plain = separator == "\t"  # tables with tabs quote nothing
    reader = csv.reader(
        _lines(path),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
        strict=True,
    )
    line = 1
    try:
        for cells in reader:
            line = reader.line_num + 1
            if cells and cells != [""]:
                yield reader.line_num, cells
    except csv.Error as err:
        raise AnnotationError(
            f"{path}, line {line}: its quotes cannot be read ({err}). A quote may be missing in this line or "
            "in one that follows. Correct the line, or fetch the file again."
        ) from err


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        AnnotationError: If it is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise AnnotationError(
            f"{path} is not JSON: {err.msg} at line {err.lineno}, column {err.colno}. "
            "Was it cut off while it was fetched?"
        ) from err


def read_objects(path: Path, keys: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number (from 0) and content of each object of a JSON array.

    Args:
        path: The file.
        keys: Keys that each object must have.

    Raises:
        AnnotationError: If the file is no array of objects with these keys.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise AnnotationError(f"{path} contains no JSON array. Is it another file of the same name?")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or (lost := [key for key in keys if key not in row]):
            what = f"has no {', '.join(lost)}" if isinstance(row, dict) else "is not an object"
            raise AnnotationError(f"{path}, entry {number} (counted from 0) {what}. Correct the file.")
        yield number, row


def whole(path: Path, line: int, name: str, text: Any) -> int:
    """Return a cell that holds a whole number.

    Raises:
        AnnotationError: If it does not.
    """
    try:
        return int(text)
    except (TypeError, ValueError):
        raise AnnotationError(
            f"{path}, line {line}: {name} is {text!r}; a whole number is expected. Correct the line."
        ) from None


def stem_of(path: str) -> str:
    """Return a path without its ending, folders included."""
    return str(PurePosixPath(path).with_suffix(""))
