from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crab_lightning.metrics import EventParsingF
from tests.metrics.oracle import approx, oracle_cases


def _matrix(events: list[list[int]]) -> Tensor:
    matrix = torch.zeros(1, 25, 10, dtype=torch.int64)
    for label, onset, offset in events:
        matrix[0, label, onset:offset] = 1
    return matrix


def _arguments(video: dict[str, Any]) -> list[Tensor]:
    return [_matrix(video[key]) for key in ("pred_a", "pred_v", "gt_a", "gt_v")]


@pytest.mark.parametrize("case", oracle_cases("avvp_f_scores"))
def test_llp_oracle(case: dict[str, Any]) -> None:
    expected, tolerance = case["expected"], case["tolerance"]
    whole = EventParsingF()
    for video, per_video in zip(case["inputs"]["videos"], expected["per_video"], strict=True):
        single = EventParsingF()
        for metric in (single, whole):
            metric.update(*_arguments(video))
        scores = single.compute()
        for level, named in per_video.items():
            for kind, value in named.items():
                assert scores[f"{level}_{kind.lower()}"].item() == approx(value, tolerance)
    scores = whole.compute()
    for level, named in expected["dataset_percent"].items():
        for kind, value in named.items():
            assert 100 * scores[f"{level}_{kind.lower()}"].item() == approx(value, 100 * tolerance)


def _plain_event_counts(pred: list[int], true: list[int]) -> tuple[int, int, int]:
    """Count TP, FP and FN events of one row by walking through it."""

    def runs(row: list[int]) -> list[set[int]]:
        places = [i for i, value in enumerate(row) if value]
        groups = itertools.groupby(enumerate(places), lambda pair: pair[1] - pair[0])
        return [{place for _, place in group} for _, group in groups]

    found, events = runs(pred), runs(true)
    pairs = [(p, t) for p in found for t in events if len(p & t) >= 0.5 * len(p | t)]
    hits = sum(any(p is a for a, _ in pairs) for p in found)
    missed = sum(not any(t is b for _, b in pairs) for t in events)
    return hits, len(found) - hits, missed


rows = st.lists(st.integers(0, 1), min_size=10, max_size=10)


@settings(deadline=None)  # a busy machine is no failure
@given(pred=rows, true=rows)
def test_event_f_equals_a_plain_walk_through_the_row(pred: list[int], true: list[int]) -> None:
    hits, false, missed = _plain_event_counts(pred, true)
    wanted = 2 * hits / (2 * hits + false + missed) if hits + false + missed else 1.0
    metric = EventParsingF()
    pred_matrix, true_matrix = (torch.tensor(row).reshape(1, 1, 10) for row in (pred, true))
    empty = torch.zeros(1, 1, 10)
    metric.update(pred_matrix, empty, true_matrix, empty)
    scores = metric.compute()
    assert scores["event_a"].item() == pytest.approx(wanted, abs=1e-11)
    assert scores["event_v"].item() == 1.0
    assert all(0 <= value.item() <= 1 for value in scores.values())


def test_five_scores_worked_by_hand() -> None:
    # Audio: 0-4 heard, 2-6 said: segment F 0.5, event IoU 2/6 misses. Visual: exact. Both: 0-4 against 2-4.
    metric = EventParsingF()
    metric.update(_matrix([[3, 2, 6]]), _matrix([[3, 0, 4]]), _matrix([[3, 0, 4]]), _matrix([[3, 0, 4]]))
    scores = {name: round(value.item(), 9) for name, value in metric.compute().items()}
    assert scores == {
        "segment_a": 0.5,
        "segment_v": 1.0,
        "segment_av": round(2 / 3, 9),
        "segment_event": 0.75,
        "segment_type": round((0.5 + 1 + 2 / 3) / 3, 9),
        "segment_mean5": round((0.5 + 1 + 2 / 3 + 0.75 + (0.5 + 1 + 2 / 3) / 3) / 5, 9),
        "event_a": 0.0,
        "event_v": 1.0,
        "event_av": 1.0,
        "event_event": 0.5,
        "event_type": round(2 / 3, 9),
        "event_mean5": round((0 + 1 + 1 + 0.5 + 2 / 3) / 5, 9),
    }


def test_values_other_than_zero_and_one_are_refused() -> None:
    good = torch.zeros(1, 25, 10)
    with pytest.raises(ValueError, match="pred_visual contains values other than 0 and 1"):
        EventParsingF().update(good, good + 0.5, good, good)
    with pytest.raises(ValueError, match=r"pred_audio has shape \(1, 25, 9\)"):
        EventParsingF().update(good[..., :9], good, good, good)
