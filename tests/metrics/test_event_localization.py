from __future__ import annotations

from typing import Any

import pytest
import torch

from crab_lightning.metrics import SegmentAccuracy
from tests.metrics.oracle import approx, oracle_cases


@pytest.mark.parametrize("case", oracle_cases("ave_accuracy"))
def test_ave_oracle(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    pred = (
        torch.tensor(inputs["pred"]) if "pred" in inputs else torch.tensor(inputs["pred_scores"]).argmax(-1)
    )
    metric = SegmentAccuracy()
    metric.update(pred, torch.tensor(inputs["gt"]))
    assert metric.compute().item() == approx(case["expected"]["accuracy"], case["tolerance"])


def test_unknown_event_is_wrong_on_background_too() -> None:
    metric = SegmentAccuracy(segments=4)
    metric.update(torch.tensor([[-1, -1, 28, 3]]), torch.tensor([[28, 3, 28, 3]]))
    assert metric.compute().item() == 0.5


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(1, 9, dtype=torch.int64), r"\(1, 10\) and target \(1, 9\); both must be \(videos, 10\)"),
        (torch.full((1, 10), -1), "target contains class indices from -1 to -1; allowed are 0 to any"),
    ],
)
def test_malformed_truth_is_refused(target: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentAccuracy().update(torch.zeros(1, 10, dtype=torch.int64), target)
