"""The data section of a config as objects: its tasks and datasets, or its data module; media unseen."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crab_lightning.configuration.files import ConfigError, compose, naming_file
from crab_lightning.configuration.objects import class_of, objects_of
from crab_lightning.data import AVDataModule, has_test, read_manifest
from crab_lightning.data.manifests.files import manifest_path
from crab_lightning.data.manifests.keys import check_datasets
from crab_lightning.data.manifests.rows import limited
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task


def data_section(config: str) -> dict[str, Any]:
    """Return the data section of a config, which may be the whole file."""
    content = compose([config])
    return dict(content.get("data", content))


def tasks_and_datasets(
    config: str, chosen: Sequence[str] | None = None
) -> tuple[dict[str, Task[Any]], dict[str, DatasetSpec]]:
    """Return the tasks of a config, with those of ``data/av_uie_v2.yaml``, and its datasets.

    Args:
        config: Name or path of the config.
        chosen: Keys of the datasets that are wanted; all when left out.

    Raises:
        ConfigError: If the config has no datasets, or not the chosen ones.
    """
    content = data_section(config)
    if "datasets" not in content:
        raise ConfigError(f"{config} has no datasets, at its top or under `data`")
    content["tasks"] = compose(["data/av_uie_v2.yaml"])["tasks"] | content.get("tasks", {})
    places = {"tasks": dict[str, Task], "datasets": dict[str, DatasetSpec]}  # type: ignore[type-arg]
    made = objects_of(content, places, [config])
    tasks, datasets = dict(made.tasks), dict(made.datasets)
    with naming_file([config]):
        check_datasets(tasks, datasets)
    if unknown := [name for name in chosen or () if name not in datasets]:
        near = did_you_mean(unknown[0], datasets)
        raise ConfigError(f"--only names {', '.join(unknown)}{near}; {config} has: {', '.join(datasets)}")
    return tasks, {name: row for name, row in datasets.items() if chosen is None or name in chosen}


def data_module(section: Mapping[str, Any], files: Sequence[str | Path] = ()) -> AVDataModule:
    """Return the data module of a config's section ``data``, no manifest read; ``files`` are for errors."""
    data: AVDataModule = objects_of({"data": section}, {"data": AVDataModule}, files).data
    return data


def one_dataset(
    config: str, root: Path, dataset: str, protocol: str | None = None, lenient: bool = False
) -> AVDataModule:
    """Return a data module of one dataset, no manifest read.

    Args:
        config: A data section, or a run's config with one.
        root: Data root.
        dataset: The one row that is kept.
        protocol: The one protocol whose metrics are computed, for tasks that know several.
        lenient: Given to the task as ``lenient``.

    Raises:
        ConfigError: If the config has no such dataset, or its task no such option.
    """
    section = data_section(config)
    rows = section.get("datasets") or {}
    if dataset not in rows:
        near = did_you_mean(dataset, rows)
        raise ConfigError(f"--dataset {dataset}{near}: {config} has: {', '.join(rows) or 'no datasets'}")
    key = rows[dataset]["task"]
    row = dict((section.get("tasks") or {}).get(key) or {})
    kind = class_of(str(row.get("class_path")))
    if lenient:
        if "lenient" not in inspect.signature(kind).parameters:
            raise ConfigError(f"--lenient: task {key} ({kind.__name__}) has only one way of reading answers")
        row["init_args"] = {**(row.get("init_args") or {}), "lenient": True}
    if protocol is not None:
        if protocol not in (known := getattr(kind, "protocols", ())):
            there = f"has: {', '.join(known)}" if known else "has no named protocols"
            raise ConfigError(f"--protocol {protocol}: task {key} ({kind.__name__}) {there}")
        rows = {dataset: {**rows[dataset], "metrics": [protocol]}}
    section |= {"root": str(root), "tasks": {key: row}, "datasets": {dataset: rows[dataset]}}
    section.pop("only", None)  # of a run on some of the rows; here it is one row anyway
    return data_module(section, [config])


def read_rows_of(
    data: AVDataModule, dataset: str, of_train: bool = False
) -> tuple[DatasetSpec, list[Sample], list[Sample]]:
    """Read a dataset's manifests, media unseen.

    Args:
        data: From :func:`one_dataset`.
        dataset: Its one dataset.
        of_train: Whether the training file was asked.

    Returns:
        The row with classes filled in, the training rows (empty without that file), and the rows that were
        asked: of the test file, or of the training file where asked or where there is no other.
    """
    spec, train, test = data.datasets[dataset], [], []
    task = data.tasks[spec.task]
    tested = has_test(data.root, dataset, spec)
    needs_train = of_train or not tested
    if needs_train or manifest_path(data.root, dataset, spec, "train").is_file():
        train = read_manifest(data.root, dataset, spec, "train", task=task, check_media=False)
    if tested:
        test = read_manifest(data.root, dataset, spec, "test", task=task, check_media=False)
    if spec.classes is None:
        spec = replace(spec, classes=task.class_names([*train, *test]))
    asked = [replace(s, split="val") for s in train] if needs_train else limited(test, spec.limit, data.seed)
    if not asked:
        raise ValueError(f"data.datasets.{dataset}: the manifest under {data.root} has no rows")
    return spec, train, list(asked)
