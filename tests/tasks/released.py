"""Tasks and rows of configs/data/av_uie_v2.yaml, and samples of the tiny tree, for the tests of this room."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import AudioWindow, DatasetSpec, Sample
from crab_lightning.tasks import Task
from tests.data.trees import files, write_tree

CONFIG = Path(__file__).resolve().parents[2] / "configs/data/av_uie_v2.yaml"


@cache
def _config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return loaded


@cache
def _tree() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    folder = tempfile.TemporaryDirectory()
    return folder, write_tree(Path(folder.name), media=False)


def datasets() -> list[str]:
    return list(_config()["datasets"])


def task_of(dataset: str, **arguments: Any) -> Task[Any]:
    path = _config()["tasks"][_config()["datasets"][dataset]["task"]]["class_path"]
    module, _, name = path.rpartition(".")
    if name == "Captioning":
        arguments.setdefault("tokenizer", "python")  # Java would take seconds each time
    made: Task[Any] = getattr(importlib.import_module(module), name)(**arguments)
    return made


@cache
def _bare_spec(dataset: str) -> DatasetSpec:
    row = dict(_config()["datasets"][dataset])
    return DatasetSpec(**row | {"audio": AudioWindow(**row["audio"])})


@cache
def samples_of(dataset: str, split: str = "train") -> tuple[Sample, ...]:
    made = read_manifest(_tree()[1], dataset, _bare_spec(dataset), split, check_media=False)  # type: ignore[arg-type]
    return tuple(made)


def spec_of(dataset: str, **change: Any) -> DatasetSpec:
    """Return a dataset's row with its classes filled in."""
    spec = replace(_bare_spec(dataset), **change)
    if spec.classes is not None:
        return spec
    rows = [*samples_of(dataset), *(samples_of(dataset, "test") if (dataset, "test") in files() else ())]
    return replace(spec, classes=task_of(dataset).class_names(rows))


def question(fields: dict[str, Any], target: str | None = None, dataset: str = "ave") -> Sample:
    """Return a sample that has annotated fields and no media."""
    return Sample(f"{dataset}/x", dataset, "t", "test", "x", target=target, fields=fields, row=0)


AVE_CLASSES, LLP_CLASSES = (tuple(_config()["datasets"][name]["classes"]) for name in ("ave", "avvp"))
