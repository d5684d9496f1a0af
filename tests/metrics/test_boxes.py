from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crab_lightning.metrics import BoxIoU, box_iou
from tests.metrics.oracle import approx, oracle_cases


@pytest.mark.parametrize(("eps", "block"), [(1e-6, "box_iou_eps"), (0.0, "mask_ciou")])
@pytest.mark.parametrize("case", oracle_cases("arig_iou_auc"))
def test_arig_oracle(case: dict[str, Any], eps: float, block: str) -> None:
    pred, true = torch.tensor(case["inputs"]["pred"]), torch.tensor(case["inputs"]["gt"])
    expected, tolerance = case["expected"][block], case["tolerance"]
    assert box_iou(pred, true, eps).tolist() == approx(expected["iou"], tolerance)
    metric = BoxIoU(eps)
    metric.update(pred, true)
    scores = metric.compute()
    assert scores["iou"].item() == approx(expected["mean_iou"], tolerance)
    assert scores["auc"].item() == approx(expected["auc"], tolerance)
    assert scores["success_at_50"].item() == approx(expected["success_at_50"], tolerance)


coordinates = st.integers(-10, 250)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)


@settings(deadline=None)  # a busy machine is no failure
@given(one=boxes, other=boxes)
def test_iou_is_symmetric_and_between_zero_and_one(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    forth = box_iou(torch.tensor([one]), torch.tensor([other])).item()
    assert forth == box_iou(torch.tensor([other]), torch.tensor([one])).item()
    assert 0 <= forth <= 1


@settings(deadline=None)  # a busy machine is no failure
@given(box=boxes)
def test_box_equals_itself_unless_it_is_empty(box: tuple[int, ...]) -> None:
    has_area = box[2] > box[0] and box[3] > box[1]
    assert box_iou(torch.tensor([box]), torch.tensor([box])).item() == float(has_area)


def test_missing_box_scores_zero_and_passes_only_the_first_threshold() -> None:
    metric = BoxIoU()
    metric.update(torch.zeros(1, 4), torch.tensor([[10, 10, 20, 20]]))
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "iou": 0.0,
        "auc": pytest.approx(0.025),
        "success_at_50": 0.0,
    }


def test_box_without_number_is_refused() -> None:
    with pytest.raises(ValueError, match="pass four zeros for an answer without a box"):
        BoxIoU().update(torch.full((1, 4), float("nan")), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"both must be \(N, 4\)"):
        BoxIoU().update(torch.zeros(4), torch.zeros(4))
