"""Reads the manifests of all datasets, and makes the three splits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crab_lightning.data.manifests.column_types import ManifestError
from crab_lightning.data.manifests.files import UNREAD, has_test, manifest_path, unread_files
from crab_lightning.data.manifests.layout import LAYOUTS
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.data.manifests.split import carve_validation
from crab_lightning.data.sampling.packed_samples import PackedSamples
from crab_lightning.data.sampling.seeding import stable_hash
from crab_lightning.spelling import counted
from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample, Split
from crab_lightning.tasks.base import NO_CLASS, Task, describe

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The samples of every dataset and split.

    Args:
        splits: The samples of each split and dataset. For a dataset without a test manifest, ``test`` is its
            validation split.
        specs: Entries of the datasets in the config, with their class names filled in.
        unsplit: For each dataset, the number of rows that stayed in training because questions about two
            clips connect their recordings to one large group.
    """

    splits: Mapping[Split, Mapping[str, PackedSamples]]
    specs: Mapping[str, DatasetSpec]
    unsplit: Mapping[str, int]


def read_rows(
    root: Path,
    tasks: Mapping[str, Task[Any]],
    datasets: Mapping[str, DatasetSpec],
    val_share: float,
    seed: int,
) -> Rows:
    """Read the manifests of every dataset, choose validation rows, and apply the row limits.

    Limits are applied last, so that they do not move a clip from one split to another. The true answers of
    the rows that will be scored are checked here, before a long training.

    Raises:
        ManifestError: If a manifest cannot be read.
        ValueError: If a task cannot read an annotation.
    """
    train = {
        name: read_manifest(root, name, spec, "train", task=tasks[spec.task])
        for name, spec in datasets.items()
    }
    tested = {
        name: read_manifest(root, name, spec, "test", task=tasks[spec.task])
        for name, spec in datasets.items()
        if has_test(root, name, spec)
    }
    specs = dict(datasets)
    for name, spec in datasets.items():
        if tested.get(name) == []:
            path = manifest_path(root, name, spec, "test")
            said = f"data.datasets.{name}: {path} contains no rows. Write rows into it, or remove it"
            raise ManifestError(said)
        if spec.classes is None:
            samples = [*train[name], *tested.get(name, ())]
            classes = tasks[spec.task].class_names(samples)
            if classes == [] and samples:
                raise ManifestError(f"data.datasets.{name}: {NO_CLASS}")
            specs[name] = replace(spec, classes=classes)
        for path in unread_files(root, name, spec):
            _log.warning("data.datasets.%s: %s: %s.", name, path, UNREAD)
    rows = split_rows(train, tested, tasks, specs, val_share, seed)
    for name, spec in specs.items():
        count = len(rows.splits["val"][name])
        if name not in tested and spec.test is None and spec.layout not in LAYOUTS and count:
            _log.warning(
                "data.datasets.%s has no test file, so a test scores its %d validation rows, which "
                "also choose the best checkpoint. Add a test file, or set test: false if this is meant.",
                name, count,
            )  # fmt: skip
    return rows


def split_rows(
    train: dict[str, list[Sample]],
    tested: Mapping[str, list[Sample]],
    tasks: Mapping[str, Task[Any]],
    specs: Mapping[str, DatasetSpec],
    val_share: float,
    seed: int,
) -> Rows:
    """Choose validation rows, check the true answers that will be scored, and apply the row limits.

    Args:
        train: Training samples of each dataset. They are removed here, because a packed copy is made, and two
            copies would need too much memory.
        tested: Samples of the datasets with a test manifest.
        tasks: The tasks, by key.
        specs: Entries of the datasets in the config, with their class names filled in.
        val_share: Fraction of the recordings for validation.
        seed: Seed of the choices.

    Raises:
        ValueError: If a task cannot read an annotation, or needs other files than a dataset has.
    """
    for samples in (*train.values(), *tested.values()):
        if samples:  # one row stands for all, because this is a fault of the dataset's entry
            check_files(tasks[samples[0].task], samples[0])
    carved = carve_validation(train, val_share, seed)
    splits: dict[Split, dict[str, PackedSamples]] = {"train": {}, "val": {}, "test": {}}
    for name, spec in specs.items():
        marked = list(zip(train.pop(name), carved.validation[name], strict=True))
        sides: dict[Split, list[Sample]] = {
            "train": [sample for sample, val in marked if not val],
            "val": [replace(sample, split="val") for sample, val in marked if val],
        }
        if name in tested:
            sides["test"] = tested[name]
        for split, samples in sides.items():
            if split != "train":
                tasks[spec.task].check(samples, spec)
                for caveat in tasks[spec.task].caveats(samples, spec, {}):
                    _log.warning("data.datasets.%s, %s rows: %s.", name, split, caveat)
            splits[split][name] = PackedSamples(limited(samples, spec.limit, seed))
        splits["test"].setdefault(name, splits["val"][name])
    return Rows(splits, specs, carved.unsplit)


def check_files(task: Task[Any], sample: Sample) -> Conversation:
    """Return the conversation of a sample, after a check that the sample has a file for each place in it.

    Raises:
        ValueError: If it has more or fewer files, or the task cannot ask about it.
    """
    asked = task.conversation(sample)
    for media, files in (
        (Media.VIDEO, sample.videos),
        (Media.IMAGE, sample.images),
        (Media.AUDIO, sample.audios),
    ):
        if (places := asked.count(media)) != len(files):
            kind = media.value
            heard = ", which may be a video file whose sound track is heard" if media is Media.AUDIO else ""
            remedy = (
                f"Name the {kind} file{heard}: under {kind!r} with the layout plain, else with"
                f" `columns: {{media: {{{kind}s: KEY}}}}`"
                if places > len(files)
                else f"Leave it out, or return Media.{media.name} for it in {type(task).__name__}.prompt"
            )
            raise ValueError(
                f"{describe(sample)}: the prompt of the task {sample.task!r} has {counted(places, 'place')}"
                f" for {kind}, but the row names {counted(len(files), f'{kind} file')}. {remedy}. The task"
                " OpenAnswer asks about any files"
            )
    return asked


def report_empty_splits(rows: Rows, stage: str | None, wanted: bool) -> None:
    """Name the datasets that a stage cannot score, because their validation or test split has no rows.

    Args:
        rows: The samples of every dataset and split.
        stage: Stage of Lightning: ``fit``, ``validate``, ``test`` or ``predict``.
        wanted: Whether training keeps rows for validation.

    Raises:
        ValueError: If ``validate``, ``test`` or ``predict`` has no rows of any dataset.
    """
    split: Split = "val" if stage in ("fit", "validate") else "test"
    empty = [name for name, samples in rows.splits[split].items() if not samples]
    if stage is None or not empty or (stage == "fit" and not wanted):
        return
    kind = "validation" if split == "val" else "test or validation"
    told = f"data.datasets: no {kind} rows of {', '.join(empty)}"
    reason = (
        "All training rows of a dataset stay in training if they are about a single recording or if"
        " data.val_share is 0"
    )
    if stage != "fit" and len(empty) == len(rows.splits[split]):
        raise ValueError(
            f"{told}, so there is nothing to score. {reason}. Add a test file, or rows about other recordings"
        )
    _log.warning("%s, so %s not scored. %s.", told, "it is" if len(empty) == 1 else "they are", reason)


def limited(samples: Sequence[Sample], limit: int | None, seed: int) -> Sequence[Sample]:
    """Keep at most ``limit`` samples, chosen by a hash of the ids. A smaller limit keeps fewer of these."""
    if limit is None or len(samples) <= limit:
        return samples
    ranked = sorted(range(len(samples)), key=lambda i: stable_hash(seed, "limit", samples[i].id))
    return [samples[i] for i in sorted(ranked[:limit])]
