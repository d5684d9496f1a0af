"""Finds manifest files on disk, reads their rows, and finds out which media files exist."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from crab_lightning.data.manifests.column_types import ManifestError, kind_of
from crab_lightning.data.manifests.layout import LAYOUTS
from crab_lightning.json_text import NotJsonError, parse_json
from crab_lightning.spelling import counted
from crab_lightning.structures import DatasetSpec

ANNOTATIONS = "AVUIE_2"
FORMATS = (".json", ".jsonl", ".csv", ".parquet")
_LOOKS_LIKE_ROWS = re.compile(
    r"(train|test|val|valid|validation|dev|eval)(ing|s|_?set)?\.(json|jsonl|ndjson|csv|tsv|parquet)(\.gz)?",
    re.I,
)
UNREAD = (
    "it is not read. Training rows are in train and test rows in test, with small letters and the ending"
    f" {', '.join(FORMATS)}; a part of the training rows (data.val_share) is used for validation. Rename"
    " the file, name it as `train_file` or `test_file` of the entry, or move it to another folder"
)
MANIFEST_BYTES = 2**30  # the largest released file has less than 100 megabytes


def dataset_folder(root: Path, dataset: str, spec: DatasetSpec) -> Path:
    """Return the folder of a dataset.

    The folder is under ``AVUIE_2/``. If the layout is not a released one, the folder may also be in the data
    root.
    """
    name = folder_name(dataset, spec)
    under, beside = root / ANNOTATIONS / name, root / name
    own = spec.layout not in LAYOUTS and beside.is_dir() and not under.is_dir()
    return beside if own else under


def folder_name(dataset: str, spec: DatasetSpec) -> str:
    """Return the name of a dataset's folder: ``spec.folder``, a released layout, or the dataset's key."""
    return spec.folder or (spec.layout if spec.layout in LAYOUTS else dataset)


def manifest_path(root: Path, dataset: str, spec: DatasetSpec, split: Literal["train", "test"]) -> Path:
    """Return the path of the manifest of a dataset, whether the file exists or not.

    Raises:
        ManifestError: If the folder contains two files that may be the manifest.
    """
    folder = dataset_folder(root, dataset, spec)
    named = spec.train_file if split == "train" else spec.test_file
    if named is not None:
        return folder / named
    found = [path for ending in FORMATS if (path := folder / f"{split}{ending}").is_file()]
    if len(found) > 1:
        raise ManifestError(
            f"data.datasets.{dataset}: {folder} contains {' and '.join(path.name for path in found)}. Say "
            f"which one is meant by data.datasets.{dataset}.{split}_file, or remove the other."
        )
    return found[0] if found else folder / f"{split}.json"


def manifest_name(dataset: str, spec: DatasetSpec, split: str) -> str:
    """Return the name of a manifest for messages. It may lack the ending of the file."""
    side, named = ("test", spec.test_file) if split == "test" else ("train", spec.train_file)
    return f"{folder_name(dataset, spec)}/{named or side}"


def has_test(root: Path, dataset: str, spec: DatasetSpec) -> bool:
    """Return whether a dataset has its own test rows, according to its entry or else to its folder."""
    if spec.test is not None or spec.test_file is not None:
        return spec.test is not False
    return manifest_path(root, dataset, spec, "test").is_file()


def unread_files(root: Path, dataset: str, spec: DatasetSpec) -> list[Path]:
    """Return files beside the manifests of a dataset that look like rows, but are not read."""
    folder = dataset_folder(root, dataset, spec)
    read = {manifest_path(root, dataset, spec, split).name for split in ("train", "test")}
    found = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
    return [folder / name for name in sorted(found) if _LOOKS_LIKE_ROWS.fullmatch(name) and name not in read]


def load_rows(path: Path, where: str, root: Path) -> list[Any]:
    """Return the rows of a manifest file: a JSON array, JSON lines, CSV with a header line, or Parquet.

    Raises:
        ManifestError: If the file is missing, too large or does not have the format of its ending.
    """
    if path.suffix == ".parquet" and path.is_file():
        return _parquet_rows(path, where)
    text = _text_of(path, where, root)
    if path.suffix == ".csv":
        return _csv_rows(text, path, where)
    if path.suffix == ".jsonl":
        if text.lstrip().startswith("["):
            raise ManifestError(
                f"{where}: {path} contains a JSON array, but a .jsonl file has one object in each line. Name"
                f" it {path.stem}.json, or remove the brackets and the commas between the objects."
            )
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [_json(line, path, f"{where}: {path}: line {number}", "") for number, line in lines]
    rows = _json(text, path, f"{where}: {path}", " One JSON array of objects is expected.")
    if not isinstance(rows, list):
        raise ManifestError(f"{where}: {path} is {kind_of(rows)}; one JSON array of objects is expected.")
    return rows


def manifest_text(path: Path, rows: Iterable[Any]) -> str:
    """Return rows as the text of a manifest: JSON lines for ``.jsonl``, else one JSON array."""
    if path.suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"


def _text_of(path: Path, where: str, root: Path) -> str:
    try:
        if (size := path.stat().st_size) > MANIFEST_BYTES:
            raise ManifestError(
                f"{where}: {path} has {size:,} bytes; a manifest has at most {MANIFEST_BYTES:,}. It may be a "
                "media file. Otherwise, split it into several datasets."
            )
        return path.read_bytes().decode("utf-8-sig")  # a byte order mark, which some editors add, is skipped
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"{where}: {path} does not exist. {_hint(path, root)}") from None
    except OSError as err:
        raise ManifestError(
            f"{where}: {path} cannot be read ({err.strerror}). Make it a file that you may read."
        ) from err
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{where}: {path} is not UTF-8 (byte {err.object[err.start]:#04x} at offset {err.start}). "
            "Save it as UTF-8."
        ) from err


def _json(text: str, path: Path, at: str, expected: str) -> Any:
    try:
        return parse_json(text)
    except NotJsonError as err:
        if expected and _is_json_lines(text):
            raise ManifestError(
                f"{at} contains JSON lines (one object in each line). One JSON array of objects is "
                "expected: let the file's name end in .jsonl, or put a comma between the lines, and [ and ] "
                "around them."
            ) from err
        raise ManifestError(f"{at} {err}{expected}") from err
    except ValueError as err:
        raise ManifestError(f"{at} {err}") from err


def _csv_rows(text: str, path: Path, where: str) -> list[Any]:
    """Return the rows of a CSV file with a header line.

    A row has no keys for its empty cells, and columns without a name are left out.
    """
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next((cells for cells in reader if cells), [])
        if twins := [name for name, count in Counter(header).items() if count > 1 and name]:
            raise ManifestError(f"{where}: {path}: column {twins[0]!r} occurs twice. Rename one of the two.")
        if other := next((sign for sign in ";\t" if any(sign in name for name in header)), None):
            raise ManifestError(f"{where}: {path}: it separates columns by {other!r}. Save it with commas.")
        rows = []
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ManifestError(
                    f"{where}: {path}: line {reader.line_num} has {counted(len(cells), 'cell')}, and the "
                    f"header line has {len(header)}. Put a cell that contains a comma in double quotes."
                )
            if cells:
                rows.append(
                    {name: cell for name, cell in zip(header, cells, strict=True) if name and cell != ""}
                )
    except csv.Error as err:
        raise ManifestError(f"{where}: {path}: line {reader.line_num} is not CSV: {err}.") from err
    return rows


def _is_json_lines(text: str) -> bool:
    """Return whether each of the first two lines is a JSON object."""
    lines = [line for line in text.lstrip()[:10_000_000].split("\n", 2)[:2] if line.strip()]
    try:
        return len(lines) > 0 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def near_name(path: Path) -> str:
    """Return a sentence that explains why a file is not found, or an empty text.

    It explains web addresses, names with back-slashes, names that look the same in two forms of Unicode (NFC
    and NFD) or are not UTF-8 on the disk, and names that differ only in capital letters.
    """
    if any(part.endswith(":") and len(part) > 2 for part in path.parts):
        return " It is a web address; download the file, and name it by its path."
    if path.is_dir():
        return " It is a folder."
    if path.is_symlink():
        return " It is a link that leads nowhere."
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
                    f" {place.parent} has {entry!r}, which looks the same but is written in another form of "
                    "Unicode: rename it, or write the manifest in that form."
                )
            if not entry.isprintable() and os.fsencode(entry).decode("cp1252", "replace") == wanted:
                return f" {place.parent} has {entry!r}, which is not UTF-8. Rename it, e.g. with convmv."
            if found.casefold() == wanted.casefold():
                return f" {place.parent} has {entry!r}: small letters and capitals differ."
        break
    return ""


def _parquet_rows(path: Path, where: str) -> list[Any]:
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ManifestError(
            f"{where}: {path} needs pyarrow: pip install 'crab_lightning[parquet]', or save the rows as JSON "
            "or CSV."
        ) from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.lib.ArrowException, OSError) as err:
        raise ManifestError(f"{where}: {path} is not Parquet that can be read: {err}.") from err
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def _hint(path: Path, root: Path) -> str:
    """Return a sentence that says what to do about a missing manifest."""
    if not root.is_dir():
        return (
            f"data.root {str(root)!r} is not a folder; set it to the folder that contains {ANNOTATIONS}/ or "
            "the folder of your own dataset."
        )
    if path.parent.is_dir():
        found = (
            ", ".join(sorted(p.name for p in path.parent.iterdir() if p.suffix in FORMATS))
            or f"no manifest ({', '.join(FORMATS)})"
        )
        return f"Its folder contains: {found}. Add the file, or remove the entry from data.datasets."
    if not (root / ANNOTATIONS).is_dir():
        parent = " (probably its parent folder)" if root.name == ANNOTATIONS else ""
        return (
            f"data.root {str(root)!r} contains no {ANNOTATIONS}/; set it to the folder that does{parent}. "
            f"A dataset of your own may also be in {root / path.parent.name}."
        )
    found = ", ".join(sorted(p.name for p in (root / ANNOTATIONS).iterdir() if p.is_dir())) or "nothing"
    return f"{ANNOTATIONS}/ contains: {found}. Set `folder`, or remove the entry from data.datasets."


class ExistingFiles:
    """The set of existing files. It lists each folder once: single look-ups are slow on a network disk."""

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
    except OSError:  # a link that leads to itself
        return False
