"""The rows that people look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.data.sampling.seeding import stable_hash
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task
from crab_lightning.tasks.spatial_text import SpatialPrompt


@dataclass(frozen=True)
class Item:
    """One row as a reviewer sees it.

    Args:
        dataset: Key of its dataset.
        row: Zero-based row of the training manifest.
        id: Its id.
        question: What is asked, media left out.
        label: The bare answer.
        text: The training text.
        videos: Video files.
        images: Pictures.
        audios: Sound files.
        box: Box in pixels of the 224-pixel frame; empty for none.
        points: Points in these pixels.
    """

    dataset: str
    row: int
    id: str
    question: str
    label: str
    text: str
    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    audios: tuple[str, ...] = ()
    box: tuple[int, ...] = ()
    points: tuple[tuple[int, int], ...] = ()


def draw_sample(
    root: Path, tasks: Mapping[str, Task[Any]], datasets: Mapping[str, DatasetSpec], size: int, seed: int
) -> list[Item]:
    """Return a seeded sample of training rows, as equal a number of each dataset as its rows allow.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets' rows, by key.
        size: Number of rows.
        seed: Decides which.

    Raises:
        ValueError: If there is no row.
    """
    ranked = {}
    for name, spec in datasets.items():
        samples = read_manifest(root, name, spec, "train")
        ranked[name] = sorted(samples, key=lambda sample: stable_hash(seed, "review", sample.id))
    chosen: list[Item] = []
    for turn in range(max(map(len, ranked.values()), default=0)):
        for name, samples in ranked.items():
            if turn < len(samples) and len(chosen) < size:
                spec = datasets[name]
                chosen.append(_item(samples[turn], spec, tasks[spec.task]))
    if not chosen:
        raise ValueError(f"{root}: the chosen datasets have no training row to be reviewed")
    return chosen


def _item(sample: Sample, spec: DatasetSpec, task: Task[Any]) -> Item:
    text = sample.target or ""
    box: tuple[int, ...] = ()
    points: tuple[tuple[int, int], ...] = ()
    if sample.images:
        found = task.parse(text, sample, spec)
        if isinstance(found, SpatialPrompt):
            box, points = found.box_xyxy_px or (), tuple((p[0], p[1]) for p in found.points_xy_px)
        elif isinstance(found, tuple):
            box = found
    asked = " ".join(part for part in task.prompt(sample) if isinstance(part, str))
    videos, images, audios = (
        tuple(str(path) for path in paths) for paths in (sample.videos, sample.images, sample.audios)
    )
    return Item(
        sample.dataset, sample.row, sample.id, asked, task.direct(sample), text,
        videos, images, audios, box, points,
    )  # fmt: skip
