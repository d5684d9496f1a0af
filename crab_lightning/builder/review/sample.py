"""Choose the rows that people review."""

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
        dataset: Key of the dataset.
        row: Number of the row in the training manifest; the first is 0.
        id: Id of the sample.
        question: Text of the question, without media.
        label: The bare answer.
        text: The training text.
        videos: Paths of the video files.
        images: Paths of the pictures.
        audios: Paths of the sound files.
        box: Box in pixels of the 224-pixel frame; empty if there is none.
        points: Points in pixels of the 224-pixel frame.
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
    """Return a random sample of training rows, with the same number of each dataset as far as possible.

    Args:
        root: Data root.
        tasks: The tasks, by key.
        datasets: The datasets, by key.
        size: Largest number of rows.
        seed: Seed of the random choice.

    Raises:
        ValueError: If there is no row, or if a manifest cannot be read.
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
