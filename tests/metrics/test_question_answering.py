from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from crab_lightning.metrics import AVQAAccuracy, GroupedAccuracy, MusicAVQAAccuracy
from tests.metrics.oracle import approx, oracle_cases


def _key(name: str) -> str:
    return "accuracy_" + name.lower().replace("/", "_").replace("-", "_").replace(" ", "_")


@pytest.mark.parametrize("case", oracle_cases("music_avqa_accuracy"))
def test_music_avqa_oracle(case: dict[str, Any]) -> None:
    metric = MusicAVQAAccuracy()
    for item in case["inputs"]["items"]:
        group = metric.index("/".join(json.loads(item["type"])))
        metric.update(torch.tensor([item["pred"] == item["answer"]]), torch.tensor([group]))
    scores, expected, tolerance = metric.compute(), case["expected"], case["tolerance"]
    assert 100 * scores["accuracy"].item() == approx(expected["overall"], tolerance)
    for name, value in {**expected["per_modality"], **expected["per_type"]}.items():
        assert 100 * scores[_key(name)].item() == approx(value, tolerance), name


@pytest.mark.parametrize("case", oracle_cases("avqa_accuracy"))
def test_avqa_oracle(case: dict[str, Any]) -> None:
    metric = AVQAAccuracy()
    items = case["inputs"]["items"]
    metric.update(
        torch.tensor([item["pred"] == item["answer"] for item in items]),
        torch.tensor([metric.index(item["question_type"]) for item in items]),
    )
    scores = metric.compute()
    assert scores["accuracy"].item() == approx(case["expected"]["overall"], case["tolerance"])
    for name, value in case["expected"]["per_type"].items():
        assert scores[_key(name)].item() == approx(value, case["tolerance"]), name


def test_rollup_is_micro_and_absent_group_is_nan() -> None:
    metric = GroupedAccuracy(["x", "y", "z"], {"xy": ["x", "y"]})
    metric.update(torch.tensor([True, False, False, True]), torch.tensor([0, 1, 1, 1]))
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert math.isnan(scores.pop("accuracy_z"))
    assert scores == {
        "accuracy": 0.5,
        "accuracy_xy": 0.5,
        "accuracy_x": 1.0,
        "accuracy_y": pytest.approx(1 / 3),
    }


def test_question_without_group_counts_overall_only() -> None:
    metric = GroupedAccuracy(["x"])
    metric.update(torch.tensor([True, False]), torch.tensor([0, -1]))
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "accuracy": 0.5,
        "accuracy_x": 1.0,
    }


def test_unknown_group_is_refused_with_the_known_ones() -> None:
    metric = GroupedAccuracy(["x", "y"])
    with pytest.raises(ValueError, match="there is no question group 'w'; known: x, y"):
        metric.index("w")
    with pytest.raises(ValueError, match="from 2 to 2; allowed are -1 to 1"):
        metric.update(torch.tensor([True]), torch.tensor([2]))
