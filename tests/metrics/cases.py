"""One small data set for every metric class, cut into single samples, for facts that hold for all of them.

The test of a metric may hold its case itself, under the name ``CASES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crab_lightning import metrics


@dataclass
class Case:
    """Arguments of single-sample updates; ``batched`` when several may be joined into one update."""

    make: Callable[[], Any]
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


def _segments(count: int) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(2)
    pred = torch.randint(-1, 3, (count, 1, 10), generator=generator)
    return list(zip(pred, torch.randint(0, 3, (count, 1, 10), generator=generator), strict=True))


def _random(count: int, *shape: int, seed: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, 1, *shape, generator=generator))


def _parsings(count: int) -> list[tuple[Any, ...]]:
    return [tuple((video > 0.8).unbind(dim=1)) for video in _random(count, 4, 25, 10)]


def _boxes(count: int) -> list[tuple[Any, ...]]:
    low, size = torch.stack(_random(2 * count, 2)), torch.stack(_random(2 * count, 2, seed=4))
    boxes = torch.cat([low, low + size], dim=-1)
    return list(zip(boxes[:count], boxes[count:], strict=True))


def _masks(count: int, frames: int = 1) -> list[tuple[Any, ...]]:
    pairs: list[tuple[Any, ...]] = []
    generator = torch.Generator().manual_seed(5)
    for i in range(count):
        logits = torch.randn(frames, 9, 8, generator=generator)
        truth = torch.rand(frames, 9, 8, generator=generator) > 0.6
        truth[: i % 2] = False
        pairs.append((logits, truth))
    return pairs


def _clips(count: int, *, truths: bool = True) -> list[tuple[Any, ...]]:
    """Single frames of four clips, in no order; one of the clips has no truth at all."""
    frames: list[tuple[Any, ...]] = []
    for i, (logits, truth) in enumerate(_masks(count)):
        clip = f"clip {(7 * i) % 4}"
        frames.append((logits, truth & (i % 4 > 0), [clip]) if truths else (logits, [clip]))
    return frames


def _videos(count: int) -> list[tuple[Any, ...]]:
    """Videos with events that overlap by chance; every other one without scores."""
    generator = torch.Generator().manual_seed(6)
    videos: list[tuple[Any, ...]] = []
    for i in range(count):
        events, found = 1 + i % 3, i % 4
        start = 10 * torch.rand(events + found, 1, generator=generator)
        spans = torch.cat([start, start + 6], dim=1)
        labels = torch.randint(0, 3, (events + found,), generator=generator)
        scores = torch.rand(found, generator=generator) if i % 2 else torch.ones(found)
        videos.append((spans[events:], labels[events:], scores, spans[:events], labels[:events]))
    return videos


def _captions(count: int) -> list[tuple[Any, ...]]:
    words = ["two", "dogs", "bark", "near", "caf\u00e9", "the", "old", "man's", "car"]
    text = [" ".join(words[i % 5 : 4 + i % 7]) for i in range(3 * count)]
    return [([text[3 * i]], [text[3 * i + 1 : 3 * i + 2 + i % 2]]) for i in range(count)]


def _sure(count: int) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(9)
    right = torch.rand(count, 1, generator=generator) > 0.4
    return list(zip(_random(count), right, strict=True))


CASES: dict[str, Case] = {
    "accuracy": Case(metrics.Accuracy, _labels(13, 4, 0)),
    "confusion": Case(lambda: metrics.ConfusionMatrix(5), _labels(13, 5, 1)),
    "war": Case(lambda: metrics.WeightedAverageRecall(5), _labels(13, 5, 1)),
    "uar": Case(lambda: metrics.UnweightedAverageRecall(5), _labels(13, 5, 1)),
    "waf": Case(lambda: metrics.WeightedF1(5), _labels(13, 5, 1)),
    "calibration": Case(metrics.Calibration, _sure(13)),
    "music_avqa": Case(metrics.MusicAVQAAccuracy, _questions(23, 9)),
    "avqa": Case(metrics.AVQAAccuracy, _questions(23, 8)),
    "ave": Case(metrics.SegmentAccuracy, _segments(7)),
    "llp": Case(metrics.EventParsingF, _parsings(9)),
    "arig": Case(metrics.BoxIoU, _boxes(11)),
    "jf_crabplus": Case(metrics.MaskJF, [(logits > 0, truth) for logits, truth in _masks(9)]),
    "jf_framewise": Case(lambda: metrics.MaskJF("framewise"), _masks(9)),
    "jf_avsbench": Case(lambda: metrics.MaskJF("avsbench"), _masks(6, frames=5)),
    "jf_refavs": Case(lambda: metrics.MaskJF("refavs"), _masks(6, frames=10)),
    "jf_avsbench_clips": Case(lambda: metrics.MaskJF("avsbench"), _clips(17)),
    "jf_refavs_clips": Case(lambda: metrics.MaskJF("refavs"), _clips(17)),
    "s_crabplus": Case(metrics.NullMaskS, [(logits > 0,) for logits, _ in _masks(9)]),
    "s_framewise": Case(lambda: metrics.NullMaskS("framewise"), [pair[:1] for pair in _masks(9)]),
    "s_refavs": Case(lambda: metrics.NullMaskS("refavs"), [pair[:1] for pair in _masks(6, frames=10)]),
    "s_refavs_clips": Case(lambda: metrics.NullMaskS("refavs"), _clips(17, truths=False)),
    "right_prompts": Case(
        metrics.RightPrompts,
        [
            (logits > 0, logits > 0.5, truth if number % 3 else logits > 0, truth, number % 4 > 0)
            for number, (logits, truth) in enumerate(_masks(9))
        ],
        batched=False,
    ),
    "unav": Case(lambda: metrics.EventMeanAP(3), _videos(12), batched=False),
    "captions": Case(lambda: metrics.CaptionScores("python", with_meteor=False), _captions(9)),
}


def all_cases() -> dict[str, Case]:
    """Return the cases above and those of the test files beside this one."""
    found = dict(CASES)
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if re.search(r"^CASES\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            found |= import_module(f"{__package__}.{file.stem}").CASES
    return found
