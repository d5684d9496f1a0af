"""What is counted beside the metrics of a dataset."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchmetrics import Metric, MetricCollection

from crab_lightning.commands.errors import one_text
from crab_lightning.evaluation.long_clips import LongClips, parts_of
from crab_lightning.evaluation.metric_values import check_metrics
from crab_lightning.evaluation.scores import DatasetScores
from crab_lightning.metrics import Accuracy, BenchmarkMetric, Scale
from crab_lightning.structures import ClipWindow, DatasetSpec, Prediction, Sample
from crab_lightning.tasks import EventLocalization
from tests.evaluation.fakes import Naming, sample

SPEC = DatasetSpec("events", "ave", classes=["dog"])


def asked(key: str, split: str = "test") -> Sample:
    return Sample(
        id=key, dataset="ave", task="events", split=split, clip=key, reference="dog&0&4",  # type: ignore[arg-type]
        fields={"event": "dog", "start_s": 0, "end_s": 4}, target="<event>dog, (0 4)</event>",
    )  # fmt: skip


def test_unreadable_cut_and_missing_answers_are_counted_with_what_they_earn() -> None:
    scores = DatasetScores("ave", EventLocalization(), SPEC)
    unreadable = scores.add(Prediction(asked("a"), "dunno", tokens=2, truncated=True))
    right = scores.add(Prediction(asked("b", "val"), "<event>dog, (0 4)</event>", tokens=7))
    scores.add_missing(asked("c"))
    assert (unreadable["parsed"], unreadable["score"], right["score"]) == (None, pytest.approx(0.6), 1.0)
    assert unreadable["reference"] == "dog&0&4"
    result = scores.result(scores.sums(), None)
    counts = {"scored": 3, "unparsed": 1, "truncated": 1, "missing": 1, "loss_samples": 0, "weighed": 0}
    assert result["counts"] == counts
    assert result["splits"] == ["val", "test"]
    assert result["unparsed_score"] == pytest.approx(0.6)  # six seconds of background
    assert result["strict"]["segment_accuracy"] == pytest.approx((0.6 + 1 + 0.6) / 3)
    assert result["valid_only"]["segment_accuracy"] == 1.0
    assert (result["answer_tokens"], result["truncated_rate"]) == (3.0, pytest.approx(1 / 3))
    alone = DatasetScores("ave", EventLocalization(), SPEC)
    alone.add_missing(asked("d", "val"))
    assert alone.result(alone.sums(), None)["splits"] == ["val"]


def test_a_task_that_leaves_out_unreadable_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = EventLocalization.update

    def skipping(self: Any, metrics: Any, answer: Any, sample: Sample, spec: DatasetSpec) -> None:
        if answer is not None:
            kept(self, metrics, answer, sample, spec)

    monkeypatch.setattr(EventLocalization, "update", skipping)
    scores = DatasetScores("ave", EventLocalization(), SPEC)
    scores.add(Prediction(asked("a"), "<event>dog, (0 4)</event>", 2, False))
    said = r"data.datasets.ave: EventLocalization.update adds nothing for an answer that cannot be read"
    with pytest.raises(ValueError, match=said):
        scores.add(Prediction(asked("b"), "dunno", 2, False))


@pytest.mark.parametrize("method", ["truth", "update", "score"])
@pytest.mark.parametrize("fault", [ValueError("odd"), KeyError("gone")])
def test_an_error_of_a_task_names_the_answer_that_was_scored(
    monkeypatch: pytest.MonkeyPatch, method: str, fault: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(EventLocalization, method, fail)
    with pytest.raises(type(fault)) as caught:
        DatasetScores("ave", EventLocalization(), SPEC).add(Prediction(asked("a"), "dunno", 2, False))
    assert one_text(caught.value) == f"{fault}, while scoring a of data.datasets.ave"


def test_a_long_clip_is_cut_off_where_any_of_its_answers_is() -> None:
    whole = replace(asked("long"), whole_s=20.0)
    windows = [ClipWindow("long", i, 10.0 * i, 10.0 * i + 10, 20.0) for i in range(2)]
    parts = [
        (w, Prediction(replace(whole, id=f"long#{w.index}", window=w), "<event>dog, (0 4)</event>", 3, cut))
        for w, cut in zip(windows, (True, False), strict=True)
    ]
    scores = DatasetScores("ave", EventLocalization(), replace(SPEC, metrics=["map"]))
    record = scores.add_windows(whole, [*parts])
    assert (record["truncated"], record["tokens"]) == (True, 6)
    assert [said["truncated"] for said in record["windows"]] == [True, False]
    assert scores.result(scores.sums(), None)["counts"]["truncated"] == 1


def test_a_clip_of_which_a_window_was_not_asked_is_scored_only_where_all_was_asked() -> None:
    first, second = (
        replace(asked(f"long#{i}"), window=ClipWindow("long", i, 10.0 * i, 10.0, 20.0)) for i in (0, 1)
    )
    scored: list[Any] = []
    scores: Any = {"ave": SimpleNamespace(add_windows=lambda whole, parts: scored.append(parts))}
    trainer: Any = SimpleNamespace(world_size=1, is_global_zero=True)
    for asked_all, count in ((False, 0), (True, 1)):
        clips = LongClips(windowed=True)
        assert clips.take(Prediction(first, "said", 1))
        assert list(clips.stitch(trainer, [first, second], scores, None, asked_all)) == ["long"]
        assert len(scored) == count
    assert [answer and answer.text for _, answer in scored[0]] == ["said", None]


def test_the_windows_of_a_record_know_whether_their_answer_was_cut_off() -> None:
    said = {"start_s": 0, "end_s": 10, "answer": "one", "truncated": True}
    record = {"whole_s": 20, "windows": [said, {"start_s": 10, "end_s": 20, "answer": None}]}
    (_, first), (window, second) = parts_of(record, asked("long"))
    assert first is not None
    assert first.truncated
    assert (second, window.start_s, window.whole_s) == (None, 10.0, 20.0)


@pytest.mark.parametrize("first", [torch.tensor(0), 0], ids=["tensor", "number"])
def test_a_metric_with_a_result_outside_its_states_is_refused(first: Any) -> None:
    class Loose(Accuracy):
        def __init__(self) -> None:
            super().__init__()
            self.constant = torch.tensor([1.0, math.nan])  # may stay, because no update changes it
            self.hits = first

        def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
            super().update(pred, target)
            self.hits = self.hits + int(pred == target)

    def scored(times_right: int) -> dict[str, Any]:
        task = type("Guest", (Naming,), {"metrics": lambda *_: MetricCollection({"accuracy": Loose()})})()
        scores = DatasetScores("a", task, DatasetSpec("naming", "x"))
        scores.add(Prediction(sample("a", 0, "val", "", "dog"), "bell", 1, False))
        for key in range(times_right):
            scores.add(Prediction(sample("a", key + 1, "val", "", "dog"), "dog", 1, False))
        return scores.result(scores.sums(), None)

    assert scored(0)["strict"] == {"accuracy": 0.0}
    said = r"data\.datasets\.a: update changes 'hits' of the metric 'accuracy' \(Loose\), which is no state"
    with pytest.raises(ValueError, match=said):
        scored(1)


@pytest.mark.parametrize(
    ("stated", "fails"),
    [
        ({"scale": Scale(high=5, unit="s")}, True),
        ({"scale": Scale(high=5, unit="s"), "higher_is_better": True}, False),
        ({"scale": Scale(high=5, unit="s"), "higher_is_better": False}, False),
        ({"scale": Scale(high=5, unit="s", higher_is_better=False)}, False),
        ({"scale": Scale(high=5, unit="")}, False),
        ({"scale": Scale(high=5)}, False),
    ],
)
@pytest.mark.parametrize("base", [BenchmarkMetric, Metric])
def test_a_metric_with_a_unit_states_its_direction(
    stated: dict[str, Any], fails: bool, base: type[Metric]
) -> None:
    def init(self: Any) -> None:
        base.__init__(self)
        self.add_state("count", torch.tensor(0))

    body = {"__init__": init, "update": lambda *_: None, "compute": lambda self: self.count, **stated}
    made: Any = type("Delay", (base,), body)
    task = type("Guest", (Naming,), {"metrics": lambda *_: MetricCollection({"accuracy": made()})})()
    said = "data.datasets.a: .*Delay has values in the unit 's', and does not state which are better"
    with pytest.raises(ValueError, match=said) if fails else nullcontext():
        check_metrics("a", task, DatasetSpec("naming", "x"))


@pytest.mark.parametrize("note", [3, ["scored leniently"], False])
def test_a_note_that_is_no_text_is_refused_before_a_run(note: Any) -> None:
    task = type("Guest", (Naming,), {"note": lambda *_: note})()
    with pytest.raises(
        ValueError, match=r"data\.datasets\.a: Guest\.note returns .*; it must return a text, or"
    ):
        check_metrics("a", task, DatasetSpec("naming", "x"))
