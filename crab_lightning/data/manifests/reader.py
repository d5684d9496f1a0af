"""Reads manifest files into samples with unique ids, and checks that their media exist."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from crab_lightning.data.manifests.column_types import ManifestError, RowError
from crab_lightning.data.manifests.files import ExistingFiles, has_test, load_rows, manifest_path, near_name
from crab_lightning.data.manifests.layout import layout_of
from crab_lightning.data.manifests.repeats import Repeat, asked_once, find_repeats
from crab_lightning.data.manifests.row_reader import RowReader
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task

__all__ = ["ManifestError", "RowError", "has_test", "manifest_path", "read_manifest", "survey_manifest"]

_log = logging.getLogger(__name__)


def read_manifest(
    root: Path | str,
    dataset: str,
    spec: DatasetSpec,
    split: Literal["train", "test"],
    *,
    task: Task[Any] | None = None,
    check_media: bool = True,
) -> list[Sample]:
    """Read one manifest into samples, in the order of the file.

    The id of a sample is ``<dataset>/<split>/<media stem>``, followed by the distinguishing fields of the
    layout after ``#``. Rows with the same id get ``~2``, ``~3`` and so on. Rows that are added at the end of
    the file do not change earlier ids.

    Args:
        root: Data root, the folder that contains ``AVUIE_2/``.
        dataset: Key of the dataset.
        spec: Entry of the dataset in the config.
        split: The file to read.
        task: Task of the dataset, which makes the fields and the target of rows in the layouts ``plain`` and
            ``messages``. Without it, these rows keep the fields of the file.
        check_media: Whether every named file must exist. Links are followed.

    Returns:
        One sample for each row. Up to ``spec.allow_missing`` rows of the training file with missing media,
        and up to ``spec.allow_refused`` rows that cannot be read, are left out, and the log says how many.
        Rows of the test file that repeat an earlier row are left out too.

    Raises:
        ManifestError: If the file is missing or cannot be read; if a key is missing or has a value that the
            layout does not allow; if a media path leaves the folder of the dataset; or if more rows than
            allowed name missing media.
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
    """Read all readable rows of one manifest, and collect the errors. The media are not checked.

    Args:
        root: Data root, the folder that contains ``AVUIE_2/``.
        dataset: Key of the dataset.
        spec: Entry of the dataset in the config.
        split: The file to read.
        task: As in :func:`read_manifest`.

    Returns:
        The samples of the readable rows, an error for every value that cannot be read, and for a test file
        the rows that repeat an earlier row.

    Raises:
        ManifestError: If the file as a whole cannot be read.
    """
    rows, reader = _open(Path(root), dataset, spec, split, task)
    samples, refused = _read(rows, reader)
    errors = [each for err in refused for each in reader.errors(err.row, rows[err.row]) or [err]]
    return _with_unique_ids(samples), errors, find_repeats(samples, task) if split == "test" else []


def _read(rows: list[Any], reader: RowReader, *, strict: bool = False) -> tuple[list[Sample], list[RowError]]:
    """Return the samples of the readable rows and the errors of the others, or raise the first error."""
    samples: list[Sample] = []
    refused: list[RowError] = []
    for index, row in enumerate(rows):
        try:
            samples.append(reader.read(index, row))
        except RowError as err:
            refused.append(err)
            if strict:
                raise
    return samples, refused


def _readable(rows: list[Any], reader: RowReader, where: str) -> list[Sample]:
    """Read the rows. At most ``allow_refused`` rows that cannot be read are left out."""
    allowed = reader.spec.allow_refused
    samples, refused = _read(rows, reader, strict=not allowed)
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
) -> tuple[list[Any], RowReader]:
    """Return the unchanged rows of a file, and the reader that turns them into samples."""
    where = f"data.datasets.{dataset}"
    try:
        layout = layout_of(spec, dataset)
    except ValueError as err:
        raise ManifestError(f"{where}.{err}") from None
    path = manifest_path(root, dataset, spec, split)
    base = path.parent if spec.media_folder is None else root / spec.media_folder
    return load_rows(path, where, root), RowReader(path, base, dataset, spec, split, layout, task)


def _with_unique_ids(samples: list[Sample]) -> list[Sample]:
    """Number the samples with the same id, in the order of the file, so that all ids are different."""
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


def _present(samples: list[Sample], reader: RowReader, where: str, allowed: int) -> list[Sample]:
    """Return the samples whose media exist; raise an error if there are more than ``allowed`` others."""
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
