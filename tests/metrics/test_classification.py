from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from crab_lightning.metrics import (
    Accuracy,
    ConfusionMatrix,
    UnweightedAverageRecall,
    WeightedAverageRecall,
    WeightedF1,
)
from tests.metrics.oracle import approx, oracle_cases


def _score(metric: Any, pred: list[int], target: list[int]) -> float:
    metric.update(torch.tensor(pred), torch.tensor(target))
    return float(metric.compute())


@pytest.mark.parametrize("case", oracle_cases("top1_accuracy"))
def test_accuracy_oracle(case: dict[str, Any]) -> None:
    score = _score(Accuracy(), case["inputs"]["pred"], case["inputs"]["gt"])
    assert score == approx(case["expected"]["accuracy"], case["tolerance"])


@pytest.mark.parametrize("case", oracle_cases("uar_war"))
def test_uar_war_oracle(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    war = _score(WeightedAverageRecall(inputs["num_classes"]), inputs["pred"], inputs["gt"])
    uar = _score(UnweightedAverageRecall(inputs["num_classes"]), inputs["pred"], inputs["gt"])
    assert 100 * war == approx(case["expected"]["WAR"], case["tolerance"])
    assert 100 * uar == approx(case["expected"]["UAR"], case["tolerance"])


@pytest.mark.parametrize("case", oracle_cases("meld_acc_waf"))
def test_meld_oracle(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    assert 100 * _score(Accuracy(), inputs["pred"], inputs["gt"]) == approx(
        case["expected"]["ACC"], case["tolerance"]
    )
    assert 100 * _score(WeightedF1(7), inputs["pred"], inputs["gt"]) == approx(
        case["expected"]["WAF"], case["tolerance"]
    )


# truth 0 0 0 1, answers 0 1 invalid 1: recall 1/3 and 1/1, precision 1/1 and 1/2
PRED, TARGET = [0, 1, -1, 1], [0, 0, 0, 1]


def test_invalid_answer_is_wrong() -> None:
    assert _score(Accuracy(), PRED, TARGET) == 0.5
    assert _score(WeightedAverageRecall(3), PRED, TARGET) == 0.5


def test_uar_averages_classes_with_a_true_sample_only() -> None:
    assert _score(UnweightedAverageRecall(3), PRED, TARGET) == pytest.approx((1 / 3 + 1) / 2)


def test_invalid_answer_costs_recall_but_no_precision() -> None:
    # F1 of class 0: 2*1/(3+1), of class 1: 2*1/(1+2); weights 3 and 1
    assert _score(WeightedF1(3), PRED, TARGET) == pytest.approx((3 * 0.5 + 1 * 2 / 3) / 4)


def test_confusion_rows_are_truth_and_last_column_counts_invalid() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.tensor(PRED), torch.tensor(TARGET))
    assert metric.compute().tolist() == [[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_collection_keeps_one_confusion_matrix_for_all_that_need_it() -> None:
    collection = MetricCollection(
        {"war": WeightedAverageRecall(3), "uar": UnweightedAverageRecall(3), "confusion": ConfusionMatrix(3)}
    )
    for _ in range(2):
        collection.update(torch.tensor(PRED), torch.tensor(TARGET))
    assert len(collection.compute_groups) == 1
    assert collection.compute()["confusion"].sum() == 8


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (
            torch.tensor([3]),
            torch.tensor([0]),
            "contains class indices from 3 to 3; allowed are -1 to 2",
        ),
        (
            torch.tensor([0]),
            torch.tensor([-1]),
            "target contains class indices from -1 to -1; allowed are 0 to 2",
        ),
        (torch.tensor([0, 1]), torch.tensor([0]), "pred has 2 class indices but target has 1"),
    ],
)
def test_index_outside_the_class_list_is_refused(pred: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedF1(3).update(pred, target)
