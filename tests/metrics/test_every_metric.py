"""Facts that hold for every metric class of the room."""

from __future__ import annotations

import inspect
import pickle
import warnings
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from crab_lightning import metrics
from crab_lightning.metrics import masks
from crab_lightning.metrics.base import to_units
from tests.metrics.cases import Case, all_cases, join

EVERY = all_cases()


def _compute(case: Case, updates: list[tuple[Any, ...]]) -> Any:
    metric = case.make()
    for arguments in updates:
        metric.update(*arguments)
    return metric.compute()


def digits(value: Any) -> dict[str, list[Any]]:
    """Return values that can be compared bit by bit; NaN becomes a word."""
    named = value if isinstance(value, dict) else {"value": value}
    return {
        name: ["nan" if item != item else item for item in tensor.reshape(-1).tolist()]
        for name, tensor in named.items()
    }


def test_every_metric_of_the_room_has_a_case() -> None:
    modules = [import_module(f"{metrics.__name__}.{found.name}") for found in iter_modules(metrics.__path__)]
    made_there = {c for m in modules for c in vars(m).values() if getattr(c, "__module__", "") == m.__name__}
    found = {c for c in made_there if inspect.isclass(c) and issubclass(c, Metric) and c.__name__[0] != "_"}
    bases = {metrics.BenchmarkMetric, metrics.GroupedAccuracy, masks.MaskMetric}
    tested = {type(case.make()) for case in EVERY.values()}
    assert found - bases == tested, "put samples named CASES into its test, as tests/metrics/cases.py"


class Squares(metrics.BenchmarkMetric):
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total")

    def update(self, error: Tensor) -> None:
        self.total += to_units(error**2).sum()

    def compute(self) -> Tensor:
        return self.total


def test_a_score_that_cannot_be_summed_is_refused_instead_of_giving_another_sum() -> None:
    metric = Squares()
    for wrong in (torch.nan, torch.inf, 1e3):
        with pytest.raises(ValueError, match=r"adds the score (nan|inf|1e\+06), which is not finite"):
            metric.update(torch.tensor([1.0, wrong]))
    with pytest.raises(ValueError, match=r"Squares\.total has become too large to be summed exactly"):  # noqa: PT012
        for _ in range(2000):
            metric.update(torch.full((8,), 100.0))


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_order_does_not_change_a_digit(case: Case) -> None:
    assert digits(_compute(case, case.samples[::-1])) == digits(_compute(case, case.samples))


@pytest.mark.parametrize(
    "case", [c for c in EVERY.values() if c.batched], ids=[k for k in EVERY if EVERY[k].batched]
)
def test_batching_does_not_change_a_digit(case: Case) -> None:
    batches = [join(case.samples[:4]), join(case.samples[4:5]), join(case.samples[5:])]
    assert digits(_compute(case, batches)) == digits(_compute(case, case.samples))


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_no_sample_gives_nan_without_a_warning(case: Case) -> None:
    metric = case.make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = metric.compute()
    if isinstance(metric, metrics.ConfusionMatrix) and type(metric) is metrics.ConfusionMatrix:
        assert not value.any()  # counts, not a score
    else:
        assert {item for items in digits(value).values() for item in items} <= {"nan", 0}
        assert "nan" in {item for items in digits(value).values() for item in items}


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_scores_are_float64_and_survive_pickling_and_reset(case: Case) -> None:
    metric = case.make()
    for arguments in case.samples:
        metric.update(*arguments)
    copy = pickle.loads(pickle.dumps(metric))
    value = metric.compute()
    assert digits(copy.compute()) == digits(value)
    for tensor in value.values() if isinstance(value, dict) else [value]:
        assert isinstance(tensor, Tensor)
        assert tensor.dtype in (torch.float64, torch.int64)
    metric.reset()
    assert digits(metric.compute()) == digits(case.make().compute())


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_forward_returns_the_batch_value_and_accumulates(case: Case) -> None:
    metric = case.make()
    for arguments in case.samples:
        batch_value = metric(*arguments)
        assert digits(batch_value) == digits(_compute(case, [arguments]))
    assert digits(metric.compute()) == digits(_compute(case, case.samples))
