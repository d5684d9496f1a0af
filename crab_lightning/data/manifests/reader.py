"""Manifest files to typed samples: ``<root>/AVUIE_2/<folder>/<split>.json`` through one of the 19 layouts.

Nothing is skipped or filled in: whatever cannot be read is an error that names file, row, key and remedy.
Keys that no layout reads are ignored, since the released files hold more than their reader uses.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from crab_lightning.data.manifests.files import (
    ANNOTATIONS,
    ExistingFiles,
    ManifestError,
    RowError,
    kind_of,
    load_rows,
    near_name,
    show,
)
from crab_lightning.data.manifests.layout import Columns, Layout
from crab_lightning.data.manifests.layout_columns import Column, ColumnError
from crab_lightning.data.manifests.layout_paths import stem_clip
from crab_lightning.data.manifests.layouts import get_layout
from crab_lightning.data.manifests.repeats import Repeat, asked_once, find_repeats
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.answers import class_index

__all__ = ["ANNOTATIONS", "ManifestError", "RowError", "manifest_path", "read_manifest", "survey_manifest"]

_log = logging.getLogger(__name__)
_DRIVE = re.compile(r"[A-Za-z]:")
_SEPARATORS = re.compile(r"[/\\]")


def read_manifest(
    root: Path | str,
    dataset: str,
    spec: DatasetSpec,
    split: Literal["train", "test"],
    *,
    check_media: bool = True,
) -> list[Sample]:
    """Read one manifest into samples, in file order.

    A sample's id is ``<dataset>/<split>/<media stem>``, with the layout's distinguishing fields after ``#``;
    rows that still share one get ``~2``, ``~3`` ... in file order. Rows added at the end leave earlier ids
    alone.

    Args:
        root: Data root, the folder that holds ``AVUIE_2/``.
        dataset: Key of the row under ``data.datasets``.
        spec: That row.
        split: Which file to read.
        check_media: Whether every named file has to exist. Links are followed.

    Returns:
        One sample per row. Rows of the training file with missing media are left out and their number is
        logged, as far as ``spec.allow_missing`` permits it; so are rows that cannot be read, as far as
        ``spec.allow_refused`` permits it. A row of the test file that repeats an earlier one is left out.

    Raises:
        ManifestError: If the file is missing or is not a UTF-8 JSON array of objects; if a key is missing or
            holds a value the layout cannot use; if a media path leaves the dataset folder; or if more rows
            than allowed name missing media.
    """
    rows, reader = _open(Path(root), dataset, spec, split)
    where = f"data.datasets.{dataset}"
    samples = _readable(rows, reader, where)
    if split == "test":
        samples = asked_once(samples, reader.path, where)
    samples = _with_unique_ids(samples)
    if check_media:
        allowed = spec.allow_missing if split == "train" else 0
        samples = _present(samples, reader.path, Path(reader.base), where, allowed)
    return samples


def survey_manifest(
    root: Path | str, dataset: str, spec: DatasetSpec, split: Literal["train", "test"]
) -> tuple[list[Sample], list[RowError], list[Repeat]]:
    """Read one manifest as far as it can be read, media unseen.

    Args:
        root: Data root, the folder that holds ``AVUIE_2/``.
        dataset: Key of the row under ``data.datasets``.
        spec: That row.
        split: Which file to read.

    Returns:
        The samples of the rows that can be read, an error for every value that cannot, and in a test file
        the rows that repeat an earlier one.

    Raises:
        ManifestError: If the file as a whole cannot be read.
    """
    rows, reader = _open(Path(root), dataset, spec, split)
    samples: list[Sample] = []
    errors: list[RowError] = []
    for index, row in enumerate(rows):
        try:
            samples.append(reader.read(index, row))
        except RowError as err:
            errors += reader.errors(index, row) or [err]
    return _with_unique_ids(samples), errors, find_repeats(samples) if split == "test" else []


def _readable(rows: list[Any], reader: _RowReader, where: str) -> list[Sample]:
    """Read the rows; as many as the dataset's row allows may be left out."""
    allowed = reader.spec.allow_refused
    samples: list[Sample] = []
    refused: list[RowError] = []
    for index, row in enumerate(rows):
        try:
            samples.append(reader.read(index, row))
        except RowError as err:
            refused.append(err)
            if not allowed:
                raise
    if len(refused) > allowed:
        raise ManifestError(
            f"{where}: {len(refused):,} of {len(rows):,} rows of {reader.path} cannot be read, and "
            f"allow_refused is {allowed}. The first: {refused[0]}"
        ) from refused[0]
    if refused:
        _log.warning(
            "%s: %d of %d rows of %s cannot be read and are left out (allow_refused: %d). The first: %s",
            where, len(refused), len(rows), reader.path, allowed, refused[0],
        )  # fmt: skip
    return samples


def _open(
    root: Path, dataset: str, spec: DatasetSpec, split: Literal["train", "test"]
) -> tuple[list[Any], _RowReader]:
    """Return the rows of a file as they are, and what turns them into samples."""
    where = f"data.datasets.{dataset}"
    try:
        layout = get_layout(spec.layout)
    except ValueError as err:
        raise ManifestError(f"{where}.{err}") from None
    columns = layout.columns(split)
    if columns is None:
        raise ManifestError(
            f"{where}: layout {layout.name!r} has no {split}.json (none was released); "
            "evaluate it on a part of train.json kept aside"
        )
    path = manifest_path(root, spec, split)
    return load_rows(path, where, root), _RowReader(path, path.parent, dataset, spec, split, layout, columns)


def manifest_path(root: Path, spec: DatasetSpec, split: Literal["train", "test"]) -> Path:
    """Return where the manifest of a row under ``data.datasets`` lies."""
    return root / ANNOTATIONS / (spec.folder or spec.layout) / f"{split}.json"


class _RowReader:
    """Turns the rows of one file into samples."""

    def __init__(
        self,
        path: Path,
        base: Path,
        dataset: str,
        spec: DatasetSpec,
        split: Literal["train", "test"],
        layout: Layout,
        columns: Columns,
    ) -> None:
        self.path = path
        self.dataset = dataset
        self.spec = spec
        self.split = split
        self.layout = layout
        self.columns = columns
        self.base = str(base)
        under = {"video": "/video/", "audio": "/audio/"} if layout.media_folders else {}
        kinds = {"video": columns.videos, "image": columns.images, "audio": columns.audios}
        self.media_columns = [
            (Column(key, _relative_path), kind, self.base + under.get(kind, "/"))
            for kind, keys in kinds.items()
            for key in keys
        ]
        self.target = Column(columns.target, _target) if columns.target else None
        # One path object for the many questions about one clip: building it is what costs.
        self.paths: dict[str, Path] = {}
        self.units = spec.audio.units if spec.audio.kind == "one_unit" else None

    def place(self, relative: str) -> Path:
        """Return the path of something under the dataset folder."""
        return Path(f"{self.base}/{relative}")

    def fail(
        self, row: int, key: str, found: str, wanted: str, remedy: str = "Correct the row or remove it."
    ) -> NoReturn:
        """Raise the error about one value."""
        raise RowError(
            row,
            f"data.datasets.{self.dataset}: {self.path}: row {row} (counted from 0): {key} {found}; "
            f"expected {wanted}. {remedy}",
        )

    def value(self, row: int, data: dict[str, Any], column: Column) -> Any:
        """Return what one column makes of its value."""
        try:
            value = data[column.key]
        except KeyError:
            self.fail(
                row,
                f"key {column.key!r}",
                f"is missing (the row has: {', '.join(data) or 'nothing'})",
                f"it in every row of a {self.layout.name} {self.split} file",
                "Add the key, or choose the layout that the file has.",
            )
        try:
            return column.read(value)
        except ColumnError as err:
            self.fail(row, f"key {column.key!r}", f"is {show(value)}", str(err))
        except RecursionError:
            self.fail(row, f"key {column.key!r}", "is nested too deeply", "a plain value")

    def path_of(self, name: str) -> Path:
        """Return the path of a media file."""
        if name not in self.paths:
            self.paths[name] = Path(name)
        return self.paths[name]

    def read(self, index: int, data: Any) -> Sample:
        """Return the sample of one row."""
        if not isinstance(data, dict):
            self.fail(index, "the row", f"is {kind_of(data)}", "an object", "Keep one JSON array of objects.")
        layout, columns = self.layout, self.columns
        fields: dict[str, Any] = dict(columns.constants)
        for column in columns.columns:
            value = self.value(index, data, column)
            if column.field is not None:
                fields[column.field] = value
        for column in columns.optional:
            if column.key in data:
                fields[str(column.field)] = self.value(index, data, column)

        values: dict[str, str] = {}
        paths: dict[str, list[Path]] = {"video": [], "image": [], "audio": []}
        for column, kind, folder in self.media_columns:
            values[column.key] = value = self.value(index, data, column)
            paths[kind].append(self.path_of(folder + value))
        image = values[columns.images[0]] if columns.images else ""
        if layout.finish is not None:
            try:
                layout.finish(fields, image, self.place)
            except ColumnError as err:
                self.fail(index, f"key {columns.images[0]!r}", f"is {image!r}", str(err))
        if self.spec.mask is not None and "mask_candidates" in fields:
            fields["mask_colours"] = self.spec.mask
        target = None if self.target is None else self.value(index, data, self.target)
        self._check_class(index, fields)

        query = columns.images[0] if columns.images else layout.query
        clips = self._clips(values, query)
        return Sample(
            id=self._id(values, query, fields),
            dataset=self.dataset,
            task=self.spec.task,
            split=self.split,
            clip=clips[0],
            videos=tuple(paths["video"]),
            images=tuple(paths["image"]),
            audios=tuple(paths["audio"]),
            unit=self._unit(index, fields) if layout.one_unit else None,
            target=target,
            reference=layout.reference(fields),
            fields=fields,
            row=index,
            clips=clips,
        )

    def errors(self, index: int, data: Any) -> list[RowError]:
        """Return one error for each column of a row that cannot be read by itself."""
        if not isinstance(data, dict):
            return []
        columns = [
            *self.columns.columns,
            *(column for column in self.columns.optional if column.key in data),
            *(column for column, _, _ in self.media_columns),
            *([self.target] if self.target is not None else []),
        ]
        found: dict[str, RowError] = {}
        for column in columns:
            try:
                self.value(index, data, column)
            except RowError as err:
                found.setdefault(str(err), err)
        return list(found.values())

    def _clips(self, values: dict[str, str], query: str) -> tuple[str, ...]:
        """Return the recordings of a row, the query's first."""
        prefix = f"{self.layout.source}/" if self.layout.source else ""
        if len(values) == 2:  # a clip and its sound track are one recording
            return (prefix + self.layout.clip(values[query]),)
        names = [query, *(key for key in values if key != query)]
        return tuple(dict.fromkeys(prefix + self.layout.clip(values[key]) for key in names))

    def _id(self, values: dict[str, str], query: str, fields: dict[str, Any]) -> str:
        """Return an id that may still occur twice."""
        names = [query] if len(values) == 2 else [query, *(key for key in values if key != query)]
        stem = "+".join(stem_clip(values[key]) for key in names)
        marks = "".join(f"#{fields[name]}" for name in self.layout.key if name in fields)
        return f"{self.dataset}/{self.split}/{stem}{marks}"

    def _unit(self, index: int, fields: dict[str, Any]) -> int:
        """Return the audio unit that a row hears."""
        unit = int(fields["frame"])
        if self.units is not None and unit >= self.units:
            self.fail(
                index,
                "the frame number",
                f"is {unit}",
                f"0 to {self.units - 1}, since it also names one of the {self.units} audio units; "
                "a later one would be silence",
            )
        return unit

    def _check_class(self, index: int, fields: dict[str, Any]) -> None:
        """Refuse a class that the configured closed set lacks; it could only ever be scored as wrong."""
        name = self.layout.class_field
        if (
            name is None
            or self.spec.classes is None
            or class_index(fields[name], self.spec.classes) is not None
        ):
            return
        self.fail(
            index,
            f"the {name.replace('_', ' ')}",
            f"is {fields[name]!r}",
            f"one of data.datasets.{self.dataset}.classes ({', '.join(self.spec.classes)})",
            "Correct the row, or leave `classes` out to take them from the manifests.",
        )


def _relative_path(value: Any) -> str:
    """Accept a path that stays inside the folder it is relative to."""
    if not isinstance(value, str) or not value or value.isspace():
        raise ColumnError("a file path that is not empty")
    if "\0" in value or (not value.isascii() and not _encodes(value)):
        raise ColumnError("a file path without NUL or half surrogate pairs")
    if value[0] in "/\\" or _DRIVE.match(value):
        raise ColumnError("a path relative to the dataset folder, not an absolute one")
    if ".." in value and ".." in _SEPARATORS.split(value):
        raise ColumnError(
            "a path without '..', since media stay under data.root; link the file into it instead"
        )
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts:
        raise ColumnError("the path of a file")
    return "/".join(parts)


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _target(value: Any) -> str:
    """Accept the supervised text."""
    if not isinstance(value, str) or not value.strip():
        raise ColumnError("the text that the model learns to write")
    if not _encodes(value):
        raise ColumnError("a text without half surrogate pairs")
    return value


def _with_unique_ids(samples: list[Sample]) -> list[Sample]:
    """Number the samples that share an id, in file order, so that none is lost where ids are keys."""
    taken = {sample.id for sample in samples}
    if len(taken) == len(samples):
        return samples
    seen: Counter[str] = Counter()
    unique = []
    for sample in samples:
        seen[sample.id] += 1
        if seen[sample.id] == 1:
            unique.append(sample)
            continue
        while (name := f"{sample.id}~{seen[sample.id]}") in taken:
            seen[sample.id] += 1
        taken.add(name)
        unique.append(replace(sample, id=name))
    return unique


def _present(samples: list[Sample], path: Path, base: Path, where: str, allowed: int) -> list[Sample]:
    """Return the samples whose media exist; refuse more than ``allowed`` others."""
    files = ExistingFiles()
    first: tuple[int, Path] | None = None
    kept = []
    for sample in samples:
        lost = next((p for p in (*sample.videos, *sample.images, *sample.audios) if p not in files), None)
        if lost is None:
            kept.append(sample)
        elif first is None:
            first = sample.row, lost
    missing = len(samples) - len(kept)
    if first is None:
        return kept
    what = (
        f"{where}: {missing:,} of {len(samples):,} rows of {path} name missing media, first row {first[0]} "
        f"(counted from 0) {str(first[1].relative_to(base))!r} under {str(base)!r}.{near_name(first[1])}"
    )
    if missing > allowed:
        remedy = (
            f"Add the files, correct the manifest, or set allow_missing: {missing} to train without them."
            if path.name == "train.json"
            else "Add the files or remove the rows (a score over fewer rows is not comparable with others')."
        )
        raise ManifestError(f"{what} {remedy}")
    _log.warning("%s They are left out (allow_missing: %d).", what, allowed)
    return kept
