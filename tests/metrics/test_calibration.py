from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError

from crab_lightning.metrics import Calibration


def test_error_is_the_gap_of_each_bin_by_its_share() -> None:
    metric = Calibration(bins=10)
    # two at 0.95, one right: gap 0.45; one at 0.55, right: gap 0.45
    metric.update(torch.tensor([0.95, 0.95, 0.55]), torch.tensor([True, False, True]))
    found = metric.compute()
    assert found["error"].item() == pytest.approx(0.45)
    assert found["accuracy"].item() == pytest.approx(2 / 3)
    assert found["confidence"].item() == pytest.approx((0.95 * 2 + 0.55) / 3)
    assert found["bin_answers"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert found["bin_right"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_error_equals_torchmetrics(bins: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sure, right = torch.rand(500, generator=generator), torch.rand(500, generator=generator) > 0.3
    metric, theirs = Calibration(bins), BinaryCalibrationError(n_bins=bins)
    metric.update(sure, right)
    assert metric.compute()["error"].item() == pytest.approx(theirs(sure, right).item(), abs=1e-6)


def test_an_upper_end_belongs_to_its_bin_and_the_ends_of_the_range_are_inside() -> None:
    metric = Calibration(bins=4)
    metric.update(torch.tensor([0.0, 0.25, 0.5, 1.0]), torch.tensor([True] * 4))
    assert metric.compute()["bin_answers"].tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_confidence_that_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        Calibration().update(torch.tensor([value]), torch.tensor([True]))
