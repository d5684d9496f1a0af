"""Media for whatever an importer looks for, and its rows through the real reader and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from crab_lightning.builder import Settings, Source, get_importer
from crab_lightning.configuration.sections import tasks_and_datasets
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import DatasetSpec, Sample
from tests.builder.media import put, put_mask


@cache
def mixture() -> tuple[dict[str, Any], dict[str, DatasetSpec]]:
    """Tasks and dataset rows of ``configs/data/av_uie_v2.yaml``."""
    return tasks_and_datasets("data/av_uie_v2.yaml", None)


def fill(folder: Path, name: str, settings: Settings | None = None, *, leave: Sequence[str] = ()) -> None:
    """Write tiny media under every name that an importer looks for and does not find.

    Args:
        folder: Owner's folder with the annotation files.
        name: Importer.
        settings: As for the import.
        leave: Names of rows whose media stay missing.
    """
    imported = get_importer(name).read(Source([folder]), settings or Settings())
    for row in imported.rows:
        for media in row.media:
            if media.source is not None or media.action == "empty_mask" or row.name in leave:
                continue
            path = folder / "media" / media.wanted.split(" or ")[-1].replace("*", "1")
            if path.exists():
                continue
            if path.suffix == ".png":
                put_mask(path, (8, 4, 30, 20))
            else:
                put(path)


def samples(root: Path, task: str, split: Any = "train") -> list[Sample]:
    """Rows through the real reader, which also checks that every file is there."""
    return read_manifest(root, task, mixture()[1][task], split)


def check_answers(root: Path, task: str) -> int:
    """Assert that the task reads the true answer out of every training text; return the number of rows."""
    from dataclasses import replace

    tasks, specs = mixture()
    spec = specs[task]
    rows = samples(root, task)
    maker = tasks[spec.task]
    if spec.classes is None:
        spec = replace(spec, classes=maker.class_names(rows))
    for sample in rows:
        told = maker.parse(maker.target(sample, "reasoning"), sample, spec)
        assert told is not None, (sample.id, sample.target)
        if spec.task not in ("segmentation", "referring_segmentation"):  # their truth is the mask
            assert told == maker.truth(sample, spec)
    return len(rows)
