"""Manifest files to typed samples, through the layout that the dataset's row names.

Nothing is skipped or filled in: whatever cannot be read is an error that names file, row, key and remedy.
Keys that no layout reads are ignored, since the released files hold more than their reader uses.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from crab_lightning.data.manifests.column_types import ColumnError, kind_of
from crab_lightning.data.manifests.columns import ColumnMap, Fields
from crab_lightning.data.manifests.files import (
    ExistingFiles,
    ManifestError,
    RowError,
    has_test,
    load_rows,
    manifest_path,
    near_name,
)
from crab_lightning.data.manifests.layout import Layout, Parts, layout_of, stem
from crab_lightning.data.manifests.repeats import Repeat, asked_once, find_repeats
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.answers import class_index
from crab_lightning.tasks.base import Task, describe

__all__ = ["ManifestError", "RowError", "has_test", "manifest_path", "read_manifest", "survey_manifest"]

_log = logging.getLogger(__name__)

_POLICY = "target_policy"
_FAULTS = (ValueError, TypeError, LookupError, AttributeError)
"""What a class of another package raises for a row that it did not expect."""


def read_manifest(
    root: Path | str,
    dataset: str,
    spec: DatasetSpec,
    split: Literal["train", "test"],
    *,
    task: Task[Any] | None = None,
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
        task: The dataset's task. Rows of the layouts ``plain`` and ``messages`` get their fields and their
            target from it; without it they have neither.
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
    rows, reader = _open(Path(root), dataset, spec, split, task)
    where = f"data.datasets.{dataset}"
    samples = _readable(rows, reader, where)
    if split == "test":
        samples = asked_once(samples, reader.path, where, task)
    samples = _with_unique_ids(samples)
    if check_media:
        allowed = spec.allow_missing if split == "train" else 0
        samples = _present(samples, reader, where, allowed)
    return samples


def survey_manifest(
    root: Path | str,
    dataset: str,
    spec: DatasetSpec,
    split: Literal["train", "test"],
    task: Task[Any] | None = None,
) -> tuple[list[Sample], list[RowError], list[Repeat]]:
    """Read one manifest as far as it can be read, media unseen.

    Args:
        root: Data root, the folder that holds ``AVUIE_2/``.
        dataset: Key of the row under ``data.datasets``.
        spec: That row.
        split: Which file to read.
        task: As in :func:`read_manifest`.

    Returns:
        The samples of the rows that can be read, an error for every value that cannot, and in a test file
        the rows that repeat an earlier one.

    Raises:
        ManifestError: If the file as a whole cannot be read.
    """
    rows, reader = _open(Path(root), dataset, spec, split, task)
    samples: list[Sample] = []
    errors: list[RowError] = []
    for index, row in enumerate(rows):
        try:
            samples.append(reader.read(index, row))
        except RowError as err:
            errors += reader.errors(index, row) or [err]
    return _with_unique_ids(samples), errors, find_repeats(samples, task) if split == "test" else []


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
    root: Path,
    dataset: str,
    spec: DatasetSpec,
    split: Literal["train", "test"],
    task: Task[Any] | None,
) -> tuple[list[Any], _RowReader]:
    """Return the rows of a file as they are, and what turns them into samples."""
    where = f"data.datasets.{dataset}"
    try:
        layout = layout_of(spec, dataset)
    except ValueError as err:
        raise ManifestError(f"{where}.{err}") from None
    path = manifest_path(root, dataset, spec, split)
    base = path.parent if spec.media_folder is None else root / spec.media_folder
    return load_rows(path, where, root), _RowReader(path, base, dataset, spec, split, layout, task)


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
        task: Task[Any] | None,
    ) -> None:
        self.task = task if layout.completes else None
        self.path = path
        self.dataset = dataset
        self.spec = spec
        self.split = split
        self.layout = layout
        self.base = str(base)
        self.folders = {
            kind: f"{self.base}/{layout.folders[kind]}/" if layout.folders.get(kind) else f"{self.base}/"
            for kind in ("video", "image", "audio")
        }
        self.prefix = f"{layout.source}/" if layout.source else ""
        # One path object for the many questions about one clip: building it is what costs.
        self.paths: dict[str, Path] = {}
        by_class = "" if isinstance(layout, ColumnMap) else spec.layout
        self.own_columns = not layout.completes and bool(spec.columns or by_class)
        self.place = (f"data.datasets.{dataset}", spec.task, by_class)
        self.units = spec.audio.units if spec.audio.kind == "one_unit" else None

    def error(self, row: int, err: ColumnError) -> RowError:
        """Return the error about one value, with everything that names it."""
        return RowError(
            row,
            f"data.datasets.{self.dataset}: {self.path}: row {row} (counted from 0): {err.what} {err.found}; "
            f"expected {err.wanted}. {err.remedy}",
        )

    def path_of(self, name: str) -> Path:
        """Return the path of a media file."""
        if name not in self.paths:
            self.paths[name] = Path(name)
        return self.paths[name]

    def read(self, index: int, data: Any) -> Sample:
        """Return the sample of one row."""
        try:
            if not isinstance(data, dict):
                raise ColumnError(
                    "an object", "the row", f"is {kind_of(data)}", "Keep one JSON array of objects."
                )
            parts = self._parts(data)
            _read_policy(data, parts)
            self._check_class(parts.fields)
            self._check_unit(parts.unit)
        except ColumnError as err:
            raise self.error(index, err) from None
        if parts.masks is not None:
            parts.fields["mask_candidates"] = tuple(Path(f"{self.base}/{mask}") for mask in parts.masks)
            if self.spec.mask is not None:
                parts.fields["mask_colours"] = self.spec.mask
        if self.spec.clip_s is not None:
            parts.fields["clip_s"] = self.spec.clip_s
        names = self._recordings(parts) or [f"row{index}"]
        clips = tuple(dict.fromkeys(self.prefix + self.layout.recording(name) for name in names))
        if parts.clip is not None:
            clips = (self.prefix + parts.clip,)
        key = parts.id if parts.id is not None else "+".join(map(stem, names))
        marks = "".join(f"#{mark}" for mark in parts.marks)
        sample = Sample(
            id=f"{self.dataset}/{self.split}/{key}{marks}",
            dataset=self.dataset,
            task=self.spec.task,
            split=self.split,
            clip=clips[0],
            videos=tuple(self.path_of(self.folders["video"] + name) for name in parts.videos),
            images=tuple(self.path_of(self.folders["image"] + name) for name in parts.images),
            audios=tuple(self.path_of(self.folders["audio"] + name) for name in parts.audios),
            unit=parts.unit,
            target=parts.target,
            reference=parts.reference,
            fields=Fields(parts.fields, *self.place) if self.own_columns else parts.fields,
            row=index,
            clips=clips,
            conversation=parts.conversation,
        )
        try:
            return sample if self.task is None else _completed(sample, self.task, data)
        except ColumnError as err:
            raise self.error(index, err) from None

    def _parts(self, data: dict[str, Any]) -> Parts:
        try:
            return self.layout.read(data, self.split)
        except ColumnError:
            raise
        except _FAULTS as err:  # of a class of another package
            name = type(self.layout).__qualname__
            raise ColumnError(
                f"what {name} reads",
                found=f"makes {name} fail ({type(err).__name__}: {err})",
                remedy="Correct the row, or the class.",
            ) from err

    def errors(self, index: int, data: Any) -> list[RowError]:
        """Return one error for each value of a row that cannot be read by itself."""
        if not isinstance(data, dict):
            return []
        try:
            found = [self.error(index, err) for err in self.layout.errors(data, self.split)]
        except _FAULTS:  # said when the row was read
            return []
        return list({str(err): err for err in found}.values())

    @staticmethod
    def _recordings(parts: Parts) -> list[str]:
        """Return the files that name a row's recordings, the query's first."""
        seen, files = [*parts.images, *parts.videos], [*parts.images, *parts.videos, *parts.audios]
        if not files:
            return []
        query = parts.query or files[0]
        if len(seen) == len(parts.audios) == 1:  # a clip and its sound track are one recording
            return [query]
        return list(dict.fromkeys([query, *files]))

    def _check_unit(self, unit: int | None) -> None:
        """Refuse an audio unit that the clip does not have."""
        if unit is not None and self.units is not None and unit >= self.units:
            raise ColumnError(
                f"0 to {self.units - 1}, since it also names one of the {self.units} audio units; "
                "a later one would be silence",
                "the frame number",
                f"is {unit}",
            )

    def _check_class(self, fields: dict[str, Any]) -> None:
        """Refuse a class that the configured closed set lacks; it could only ever be scored as wrong."""
        name = self.layout.class_field
        if (
            name is None
            or self.spec.classes is None
            or class_index(fields[name], self.spec.classes) is not None
        ):
            return
        raise ColumnError(
            f"one of data.datasets.{self.dataset}.classes ({', '.join(self.spec.classes)})",
            f"the {name.replace('_', ' ')}",
            f"is {fields[name]!r}{did_you_mean(fields[name], self.spec.classes)}",
            "Correct the row, or leave `classes` out to take them from the manifests.",
        )


def _completed(sample: Sample, task: Task[Any], row: Mapping[str, Any]) -> Sample:
    """Return a sample with the fields and the target that its task makes of a row anyone can write."""
    keys = f"; the row has: {', '.join(map(str, row))}"
    try:
        fields = task.plain(dict(sample.fields))
        target = sample.target or fields.pop("target", None)
        sample = replace(sample, fields=fields, target=target)
        sample = sample if target is not None else replace(sample, target=task.direct(sample))
        if sample.conversation is None:
            task.prompt(sample)  # it refuses a number of files that the task cannot ask about
    except KeyError as err:
        raise ColumnError(
            f"it in every row of a dataset with the task {sample.task!r}",
            f"key {err}",
            f"is missing{did_you_mean(err.args[0], row)}{keys}",
            "Add the key, or rename the one that is meant.",
        ) from err
    except _FAULTS as err:
        told = str(err).removeprefix(f"{describe(sample)}: ")  # the reader names file and row itself
        reason, begins, remedy = told.partition("Correct the row")
        remedy = f"{begins}{remedy}" or "Correct the row or remove it."
        wanted = f"what the task {sample.task!r} reads: {reason.rstrip(' .')}"
        raise ColumnError(wanted, remedy=remedy) from err
    if sample.conversation is None and not (sample.videos or sample.images or sample.audios):
        raise ColumnError(
            "a file under 'video', 'image' or 'audio'",
            found=f"names no clip{keys}",
            remedy="Add the key, or state its name in the file under `columns: {keys: ...}`.",
        )
    return sample


def _read_policy(data: dict[str, Any], parts: Parts) -> None:
    """Keep how a row's target is to be written, where the row says so; ``build reason`` writes it."""
    policy = data.get(_POLICY)
    if policy is None:
        return
    if policy not in ("reasoning", "direct"):
        raise ColumnError(
            "'reasoning' or 'direct'",
            f"the key {_POLICY!r}",
            f"is {policy!r}",
            "Correct it or remove the key.",
        )
    parts.fields[_POLICY] = policy


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


def _present(samples: list[Sample], reader: _RowReader, where: str, allowed: int) -> list[Sample]:
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
        f"{where}: {missing:,} of {len(samples):,} rows of {reader.path} name missing media, first row "
        f"{first[0]} (counted from 0) {str(first[1].relative_to(reader.base))!r} under {reader.base!r}."
        f"{near_name(first[1])}"
    )
    if missing > allowed:
        remedy = (
            f"Add the files, correct the manifest, or set allow_missing: {missing} to train without them."
            if reader.split == "train"
            else "Add the files or remove the rows (a score over fewer rows is not comparable with others')."
        )
        raise ManifestError(f"{what} {remedy}")
    _log.warning("%s They are left out (allow_missing: %d).", what, allowed)
    return kept
