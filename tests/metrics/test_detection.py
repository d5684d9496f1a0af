from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from crab_lightning.metrics import EventMeanAP
from tests.metrics.oracle import approx, oracle_cases


def _update(metric: EventMeanAP, preds: list[list[Any]], trues: list[list[Any]]) -> None:
    """Give one video: events as ``[start, end, class]``, predictions with a score behind."""
    pred, true = torch.tensor(preds, dtype=torch.float64), torch.tensor(trues, dtype=torch.float64)
    pred, true = pred.reshape(-1, 4), true.reshape(-1, 3)
    metric.update(pred[:, :2], pred[:, 2].long(), pred[:, 3], true[:, :2], true[:, 2].long())


@pytest.mark.parametrize("case", oracle_cases("unav_map"))
def test_unav_oracle(case: dict[str, Any]) -> None:
    inputs, metric = case["inputs"], EventMeanAP()
    for video in {row[0] for row in inputs["gt"] + inputs["pred"]}:
        preds = [row[1:] for row in inputs["pred"] if row[0] == video]
        _update(metric, preds, [row[1:] for row in inputs["gt"] if row[0] == video])
    scores = metric.compute()
    for threshold, value in zip(case["tiou_thresholds"], case["expected"]["mAP"], strict=True):
        assert scores[f"map_{round(100 * threshold)}"].item() == approx(value, case["tolerance"]), threshold
    assert scores["map_average"].item() == approx(case["expected"]["average"], case["tolerance"])


def test_answers_without_scores_rank_by_their_position() -> None:
    metric = EventMeanAP(1)
    _update(metric, [[50, 60, 0, 1.0], [0, 10, 0, 1.0]], [[0, 10, 0]])
    assert metric.compute()["map_50"].item() == 0.5
    metric = EventMeanAP(1)
    _update(metric, [[0, 10, 0, 1.0], [50, 60, 0, 1.0]], [[0, 10, 0]])
    assert metric.compute()["map_50"].item() == 1.0


def test_ties_between_videos_enter_the_curve_as_one_step() -> None:
    found = []
    videos = [([[0, 10, 0, 1.0]], [[0, 10, 0]]), ([[0, 10, 0, 1.0]], [[20, 30, 0]])]
    for order in (videos, videos[::-1]):
        metric = EventMeanAP(1)
        for preds, trues in order:
            _update(metric, preds, trues)
        found.append(metric.compute()["map_50"].item())
    assert found == [0.25, 0.25]  # precision 1/2 at recall 1/2


def _plain_average_precision(videos: list[tuple[list[Any], list[Any]]], threshold: float) -> float:
    """One class, unique scores: rank all predictions, match greedily, add up precision over recall steps."""
    ranked = sorted(
        ((pred, v) for v, (preds, _) in enumerate(videos) for pred in preds), key=lambda p: -p[0][3]
    )
    used: set[tuple[int, int]] = set()
    points, hits = [], 0
    total = sum(len(trues) for _, trues in videos)
    for place, (pred, video) in enumerate(ranked, 1):
        overlaps = []
        for j, true in enumerate(videos[video][1]):
            shared = max(0.0, min(pred[1], true[1]) - max(pred[0], true[0]))
            overlaps.append((shared / (pred[1] - pred[0] + true[1] - true[0] - shared), j))
        for overlap, j in sorted(overlaps, reverse=True):
            if overlap >= threshold and (video, j) not in used:
                used.add((video, j))
                hits += 1
                break
        points.append((hits / total, hits / place))
    steps = zip([(0.0, 0.0), *points], points, range(len(points)), strict=False)
    return sum((b[0] - a[0]) * max(p for _, p in points[i:]) for a, b, i in steps)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_a_plain_ranking(seed: int) -> None:
    chance = random.Random(seed)
    videos, metric = [], EventMeanAP(1)
    for _ in range(6):
        spans = [[s, s + chance.uniform(1, 8), 0] for s in (chance.uniform(0, 20) for _ in range(6))]
        preds = [
            [s + chance.gauss(0, 1), e + 3, 0, chance.random()] for s, e, _ in spans[: chance.randint(0, 6)]
        ]
        videos.append((preds, spans[: chance.randint(1, 6)]))
        _update(metric, *videos[-1])
    scores = metric.compute()
    for level in range(1, 10):
        wanted = _plain_average_precision(videos, level / 10)
        assert scores[f"map_{10 * level}"].item() == pytest.approx(wanted, abs=1e-12)


def test_zero_length_spans_overlap_nothing() -> None:
    metric = EventMeanAP(1)
    _update(metric, [[5, 5, 0, 1.0]], [[5, 5, 0]])
    assert metric.compute()["map_10"].item() == 0.0


def test_prediction_of_unknown_class_changes_nothing() -> None:
    metric = EventMeanAP(2)
    _update(metric, [[0, 10, -1, 1.0], [0, 10, 1, 1.0], [0, 10, 0, 0.5]], [[0, 10, 0]])
    assert metric.compute()["map_average"].item() == 1.0


@pytest.mark.parametrize(
    ("preds", "trues", "message"),
    [
        ([[0, 1, 2, 1.0]], [], "pred_classes contains class indices from 2 to 2; allowed are -1 to 1"),
        ([], [[0, 1, -1]], "true_classes contains class indices from -1 to -1; allowed are 0 to 1"),
        ([[0, float("inf"), 1, 1.0]], [], "pred_spans_s contains NaN or infinity"),
        ([[0, 1, 1, float("nan")]], [], "it must have 1 finite numbers"),
    ],
)
def test_malformed_video_is_refused(preds: list[Any], trues: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _update(EventMeanAP(2), preds, trues)
