"""Makes the tasks, the datasets or the data module of a config's data section. It reads no media."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crab_lightning.configuration.files import SECTIONS, ConfigError, compose, found_path, naming_file
from crab_lightning.configuration.objects import class_of, objects_of
from crab_lightning.configuration.wrong_values import first_wrong
from crab_lightning.data import AVDataModule, has_test, read_manifest
from crab_lightning.data.manifests.files import manifest_path
from crab_lightning.data.manifests.keys import check_datasets, chosen_datasets
from crab_lightning.data.manifests.rows import limited
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task

_KEYS = (*SECTIONS, "seed_everything", "only", "ckpt_path")
_MODEL_PATHS = (
    "pretrained", "vision", "beats", "load_adapter", "visual_connector", "audio_connector", "chat_template",
)  # fmt: skip


def data_section(config: str) -> dict[str, Any]:
    """Return the section ``data`` of a config, or the whole config if it has no such section.

    Raises:
        ConfigError: If the config has a section that no run has.
    """
    content = compose([config])
    for key in content if "data" in content else ():
        if key not in _KEYS:
            raise ConfigError(f"{config}: there is no key {key!r}{did_you_mean(key, _KEYS)}")
    return dict(content.get("data", content))


def tasks_and_datasets(
    config: str, chosen: Sequence[str] | None = None
) -> tuple[dict[str, Task[Any]], dict[str, DatasetSpec]]:
    """Return the tasks of a config, together with those of ``data/av_uie_v2.yaml``, and its datasets.

    Args:
        config: Name or path of the config.
        chosen: Keys of the datasets to return. By default, those in ``only`` of the config, or all.

    Raises:
        ConfigError: If the config has no datasets, lacks a chosen one, or has a wrong key or value.
    """
    content = data_section(config)
    if "datasets" not in content:
        raise ConfigError(f"{config} has no datasets, at its top or under `data`")
    content["tasks"] = compose(["data/av_uie_v2.yaml"])["tasks"] | content.get("tasks", {})
    rest = {key: value for key, value in content.items() if key not in ("tasks", "datasets")}
    keys = inspect.signature(AVDataModule).parameters
    with naming_file([config]):
        if unknown := [key for key in rest if key not in keys]:
            raise ConfigError(f"there is no key 'data.{unknown[0]}'{did_you_mean(unknown[0], keys)}")
        if said := first_wrong({"data": rest}, {"data": AVDataModule}):
            raise ConfigError(said)
    places = {"tasks": dict[str, Task], "datasets": dict[str, DatasetSpec]}  # type: ignore[type-arg]
    made = objects_of(content, places, [config])
    tasks, datasets = dict(made.tasks), dict(made.datasets)
    with naming_file([config]):
        check_datasets(tasks, datasets)
        if chosen is None:
            return tasks, chosen_datasets(datasets, content.get("only"))
    if lost := [name for name in chosen if name not in datasets]:
        near = did_you_mean(lost[0], datasets)
        raise ConfigError(f"--only names {', '.join(lost)}{near}; {config} has: {', '.join(datasets)}")
    return tasks, {name: row for name, row in datasets.items() if name in chosen}


def data_module(section: Mapping[str, Any], files: Sequence[str | Path] = ()) -> AVDataModule:
    """Return the data module of a section ``data`` without reading manifests; ``files`` are for messages."""
    data: AVDataModule = objects_of({"data": section}, {"data": AVDataModule}, files).data
    return data


def one_dataset(
    config: str, root: Path, dataset: str, protocol: str | None = None, lenient: bool = False
) -> AVDataModule:
    """Return a data module with one dataset, without reading manifests.

    Args:
        config: Name or path of a config with ``datasets``, at its top level or under ``data``.
        root: Data root.
        dataset: Key of the dataset.
        protocol: Compute only the metrics of this protocol, for tasks that have several.
        lenient: Value of the argument ``lenient`` of the task.

    Raises:
        ConfigError: If the config has no such dataset, or the task has no such protocol or option.
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
    section.pop("only", None)  # the choice of a run; here only one dataset is left
    return data_module(section, [config])


def read_rows_of(
    data: AVDataModule, dataset: str, of_train: bool = False
) -> tuple[DatasetSpec, list[Sample], list[Sample]]:
    """Read the manifests of a dataset, but no media.

    Args:
        data: The result of :func:`one_dataset`.
        dataset: Key of the dataset.
        of_train: Whether the questions come from the training file.

    Returns:
        The dataset's entry with its classes filled in, the samples of the training file (empty without this
        file), and the samples with the questions: those of the test file, or those of the training file if
        ``of_train`` is set or there is no test file.

    Raises:
        ValueError: If there are no such samples, or a manifest cannot be read.
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


def find_paths(model: MutableMapping[str, Any], data: MutableMapping[str, Any]) -> None:
    """Replace the paths of a config with those of :func:`found_path`.

    Args:
        model: The arguments of the model; they are changed in place.
        data: The data section; it is changed in place.
    """
    chosen = [model.get(key) or {} for key in ("visual_encoder", "audio_encoder")]
    encoders = [(encoder.get("init_args") or {}, _MODEL_PATHS) for encoder in chosen]
    for section, keys in ((model, _MODEL_PATHS), *encoders, (data, ("root", "cache"))):
        for key in keys:
            if isinstance(value := section.get(key), str | Path):
                section[key] = found_path(str(value))
