"""Find and read files in the folders of a dataset as its owner publishes it."""

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
    """An annotation file is not as its owner publishes it; the message names the file, line and remedy."""


class Source:
    """The files in the folders of one dataset.

    A file is found by its name, together with as many parent folders as are needed to distinguish it from
    others. Thus it does not matter how deep the owner's archive was unpacked. Upper and lower case differ:
    YouTube ids that differ only in case are different clips.

    Args:
        folders: Folders that contain the annotation files and the media.
        without: A folder that is not searched, such as a data root inside the source.

    Raises:
        NotADirectoryError: If one of ``folders`` is not a folder.
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
        """Return the file whose path ends in ``tail``.

        Args:
            tail: File name, with parent folders if they are needed to distinguish files.
            inside: Name of a folder that has to be part of the path; empty for any path.

        Returns:
            The file with the fewest parent folders if there are several; ``None`` if there is none.
        """
        name = tail.rpartition("/")[2]
        return _best(p for p in self._files.get(name, ()) if _fits(p, tail, inside))

    def media(self, stem: str, endings: Sequence[str] = VIDEO, inside: str = "") -> Path | None:
        """Return the media file whose path without its ending ends in ``stem``.

        Args:
            stem: File name without its ending, with parent folders if they are needed to distinguish files.
            endings: Allowed endings in lower case, in order of preference.
            inside: Name of a folder that has to be part of the path; empty for any path.

        Returns:
            ``None`` if there is no such file.
        """
        name = stem.rpartition("/")[2]
        found: dict[str, list[str]] = {}
        for path in self._stems.get(name, ()):
            root, _, ending = path.rpartition(".")
            if _fits(root, stem, inside):
                found.setdefault("." + ending.lower(), []).append(path)
        return next((_best(found[ending]) for ending in endings if ending in found), None)

    def annotation(self, *tails: str) -> Path:
        """Return the first of some annotation files that exists.

        Args:
            tails: File names as for :meth:`file`, in order of preference.

        Raises:
            FileNotFoundError: If none of the files exists.
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
    """Return the text of an annotation file without a byte order mark.

    Raises:
        AnnotationError: If the file is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise AnnotationError(
            f"{path} is not UTF-8 (byte {err.object[err.start]:#04x} at offset {err.start}). "
            "Download the file again, or save it as UTF-8."
        ) from err


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line that is not blank; all line ends are accepted.

    Raises:
        AnnotationError: If the file is not UTF-8.
    """
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def read_table(
    path: Path, separator: str = ",", columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with a header line.

    Args:
        path: The file.
        separator: Character between two cells.
        columns: Names that the header must contain, in any order, in upper or lower case; more columns are
            allowed. By default, all columns are read.

    Yields:
        Line number (from 1) and the cells by the names in ``columns``.

    Raises:
        AnnotationError: If a column is missing in the header, if a row does not have as many cells as the
            header, if a quote is not closed, or if the file is not UTF-8.
    """
    rows = _cells(path, separator)
    head = [cell.strip() for cell in next(rows, (0, []))[1]]
    at = {name.lower(): i for i, name in enumerate(head)}
    wanted = list(columns or head)
    if lost := [name for name in wanted if name.lower() not in at]:
        raise AnnotationError(
            f"{path}: the header line is {separator.join(head)!r}; it must name {', '.join(lost)}. "
            "Is it another file of the same name, or was its header line removed?"
        )
    for line, cells in rows:
        if len(cells) != len(head):
            raise AnnotationError(
                f"{path}, line {line}: {len(cells)} cells, but the header line has {len(head)}. "
                "Correct the line, or download the file again."
            )
        yield line, {name: cells[at[name.lower()]] for name in wanted}


def read_bare(path: Path, count: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row of a table without a header line.

    Args:
        path: The file.
        count: Number of cells in a row.

    Raises:
        AnnotationError: If a row does not have ``count`` cells, if a quote is not closed, or if the file is
            not UTF-8.
    """
    for line, cells in _cells(path, ","):
        if len(cells) != count:
            raise AnnotationError(
                f"{path}, line {line}: {len(cells)} cells instead of {count}. "
                "Correct the line, or download the file again."
            )
        yield line, cells


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their line ends.

    ``str.splitlines`` would also split at U+0085 and U+2028, which occur inside cells: in MELD, for example,
    byte 0x85 once stood for three dots.
    """
    return iter(io.StringIO(read_text(path), newline=""))


def _cells(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row that is not blank."""
    plain = separator == "\t"  # tables with tabs do not use quotes
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
            "in one that follows. Correct the line, or download the file again."
        ) from err


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        AnnotationError: If the file is not JSON or not UTF-8.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise AnnotationError(
            f"{path} is not JSON: {err.msg} at line {err.lineno}, column {err.colno}. "
            "Was the download incomplete?"
        ) from err


def read_objects(path: Path, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each object of a JSON array.

    Args:
        path: The file.
        keys: Keys that each object must have.

    Raises:
        AnnotationError: If the file is not an array of objects with these keys.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise AnnotationError(f"{path} does not contain a JSON array. Is it another file of the same name?")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or (lost := [key for key in keys if key not in row]):
            what = f"has no {', '.join(lost)}" if isinstance(row, dict) else "is not an object"
            raise AnnotationError(f"{path}, entry {number} (counted from 0) {what}. Correct the file.")
        yield row


def whole(path: Path, line: int, name: str, text: Any) -> int:
    """Return the whole number in a cell.

    Args:
        path: The file, for the message.
        line: Line number, for the message.
        name: Name of the cell, for the message.
        text: Content of the cell.

    Raises:
        AnnotationError: If the cell does not contain a whole number.
    """
    try:
        return int(text)
    except (TypeError, ValueError):
        raise AnnotationError(
            f"{path}, line {line}: {name} is {text!r}; a whole number is expected. Correct the line."
        ) from None


def stem_of(path: str) -> str:
    """Return a path with its folders, but without its ending."""
    return str(PurePosixPath(path).with_suffix(""))
