"""One small data set for every metric class, cut into single samples, for facts that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from crab_lightning import metrics


@dataclass
class Case:
    """Arguments of single-sample updates; ``batched`` when several may be joined into one update."""

    make: Callable[[], Metric]
    samples: list[tuple[Any, ...]]
    batched: bool = True


def join(samples: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Join single-sample arguments into those of one update."""
    return tuple(
        torch.cat(column) if isinstance(column[0], Tensor) else [item for part in column for item in part]
        for column in zip(*samples, strict=True)
    )


def _labels(count: int, classes: int, seed: int) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randint(-1, classes, (count, 1), generator=generator)
    return list(zip(pred, torch.randint(0, classes, (count, 1), generator=generator), strict=True))


def _questions(count: int, groups: int) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(7)
    correct = torch.randint(0, 2, (count, 1), generator=generator).bool()
    return list(zip(correct, torch.randint(-1, groups, (count, 1), generator=generator), strict=True))


CASES: dict[str, Case] = {
    "accuracy": Case(metrics.Accuracy, _labels(13, 4, 0)),
    "confusion": Case(lambda: metrics.ConfusionMatrix(5), _labels(13, 5, 1)),
    "war": Case(lambda: metrics.WeightedAverageRecall(5), _labels(13, 5, 1)),
    "uar": Case(lambda: metrics.UnweightedAverageRecall(5), _labels(13, 5, 1)),
    "waf": Case(lambda: metrics.WeightedF1(5), _labels(13, 5, 1)),
    "music_avqa": Case(metrics.MusicAVQAAccuracy, _questions(23, 9)),
    "avqa": Case(metrics.AVQAAccuracy, _questions(23, 8)),
}
