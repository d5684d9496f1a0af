"""A metric's range, direction and unit are honoured from the validation to the comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score
from torchmetrics.classification import BinaryAccuracy

from crab_lightning.commands import main
from crab_lightning.evaluation import Evaluator
from crab_lightning.evaluation.metric_values import mean_headline
from crab_lightning.evaluation.scores import DatasetScores
from crab_lightning.evaluation.tables import results_table
from crab_lightning.metrics import Accuracy, CaptionScores, NullMaskS, Scale
from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units
from crab_lightning.metrics.scale import scale_of
from crab_lightning.reports.page import metric_table
from crab_lightning.runs import RunCheckpoint
from crab_lightning.structures import DatasetSpec, Prediction, Sample
from crab_lightning.tasks.base import Task
from tests.evaluation.fakes import Naming, Parrot, Rows, sample
from tests.quiet import quiet_trainer


class MeanError(BenchmarkMetric):
    """Mean absolute error in seconds, from 0 without an end; lower is better."""

    higher_is_better = False
    scale = Scale(high=None, unit="s")
    sum_units: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("sum_units")
        self.add_sum("count")

    def update(self, error_s: Tensor) -> None:
        self.sum_units += to_units(error_s).sum()
        self.count += error_s.numel()

    def compute(self) -> Tensor:
        return mean_of(self.sum_units, self.count)


class Moment(Naming):
    """Names a second; an answer that cannot be read has an error of 5 s."""

    def truth(self, sample: Sample, spec: DatasetSpec) -> int:
        return int(sample.fields["label"])

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> int | None:
        return int(text) if text.isdigit() else None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        return MetricCollection({"error": MeanError()})

    def update(
        self, metrics: MetricCollection, answer: int | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        error = 5 if answer is None else abs(answer - self.truth(sample, spec))
        metrics.update(torch.tensor([float(error)]))

    def headline(self, spec: DatasetSpec) -> str:
        return "error"

    def jsonable(self, answer: int) -> Any:
        return answer


class SaidInScale(MeanError):
    higher_is_better = True
    scale = Scale(higher_is_better=False, high=None, unit="s")


def test_the_direction_may_be_stated_in_either_place() -> None:
    for kind in (MeanError, SaidInScale):
        assert not scale_of(kind(), "error").higher_is_better
    assert scale_of(Accuracy(), "accuracy").higher_is_better


def _add_two(self: Any, metrics: MetricCollection, *_: Any) -> None:
    metrics.update(torch.ones(1), torch.ones(1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"metrics": lambda *_: MeanError()},
            r"Wrong\.metrics returns a MeanError; it must return a Metric",
        ),
        (
            {"parse": lambda self, text, *_: int(text)},
            r"^a/val/0 .*Wrong\.parse fails for the answer 'soon': .*must return None for an answer that",
        ),
        (
            {"metrics": lambda *_: MetricCollection({"error": R2Score()}), "update": _add_two},
            r"^data\.datasets\.a: the metrics of the task .* cannot be computed: Needs at least two samples",
        ),
    ],
)
def test_what_is_wrong_with_a_task_is_told_with_its_dataset(wrong: dict[str, Any], message: str) -> None:
    task = type("Wrong", (Moment,), wrong)()
    with pytest.raises(ValueError, match=message):  # noqa: PT012
        scores = DatasetScores("a", task, DatasetSpec("moment", "x"))
        scores.add(Prediction(sample("a", 0, "val", "soon", "1"), "soon", 1, False))
        scores.result(scores.sums(), None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": lambda *_: MeanError()}, r"Wrong\.metrics returns a MeanError; it must return a Metric"),
        ({"headline": lambda *_: "errors"}, r"'errors' of the task 'moment' is not one of .*Let Wrong\."),
    ],
)
def test_wrong_metrics_end_a_run_before_its_first_step(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data, model = moments(), Better()
    data.tasks["moment"] = type("Wrong", (Moment,), wrong)()
    run = quiet_trainer(run=tmp_path, callbacks=[Evaluator(print_table=False)], max_epochs=1)
    with pytest.raises(ValueError, match=message):
        run.fit(model, datamodule=data)
    assert run.global_step == 0
    assert model.validations == 0


def test_answers_that_cannot_be_hashed_have_a_majority_and_a_prompt_is_no_text() -> None:
    class Lists(Moment):
        def truth(self, sample: Sample, spec: DatasetSpec) -> Any:
            return [sample.fields["label"]]

        def prompt(self, sample: Sample) -> Any:
            return "When?"

    rows = [sample("a", i, "train", "", label) for i, label in enumerate("212")]
    assert Task.majority(Lists(), rows, DatasetSpec("moment", "x")) == ["2"]
    with pytest.raises(ValueError, match=r"Lists\.prompt returns a text; it must return a tuple"):
        Lists().conversation(rows[0])


class Better(Parrot):
    """Answers worse from validation to validation: 1 s off, then 2, then 3."""

    def __init__(self) -> None:
        super().__init__()
        self.validations = 0

    def on_validation_epoch_start(self) -> None:
        self.validations += not self.trainer.sanity_checking

    def _answer(self, batch: Any) -> dict[str, Any]:
        moved = [
            replace(s, fields={**s.fields, "says": str(int(s.fields["label"]) + self.validations)})
            if s.task == "moment"
            else s
            for s in batch.samples
        ]
        return super()._answer(replace(batch, samples=moved))


def moments(others: dict[str, list[Any]] | None = None) -> Rows:
    rows = {
        split: [replace(sample("a", i, split, str(i), str(i)), task="moment") for i in range(3)]
        for split in ("train", "val", "test")
    }
    data = Rows({split: rows[split] + (others or {}).get(split, []) for split in rows})
    data.tasks = {"moment": Moment(), "naming": Naming()}
    data.datasets["a"] = DatasetSpec(task="moment", layout="a")
    return data


def fitted(folder: Path, data: Rows, **options: Any) -> tuple[RunCheckpoint, Evaluator, Trainer]:
    kept, evaluator = RunCheckpoint(**options), Evaluator(print_table=False)
    run = quiet_trainer(
        run=folder,
        callbacks=[evaluator, kept],
        enable_checkpointing=True,
        max_epochs=3,
        num_sanity_val_steps=0,
    )
    run.fit(Better(), datamodule=data)
    return kept, evaluator, run


def test_the_smallest_error_is_kept_as_the_best_and_printed_unscaled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, evaluator, run = fitted(tmp_path / "run", moments())
    assert kept.best_score == 1.0
    best = torch.load(kept.best_model_path, weights_only=False)
    assert best["epoch"] == 0
    assert "val/mean/headline" not in run.callback_metrics
    table = results_table(evaluator.results, "val")
    assert [list(table.columns[i].cells) for i in (2, 3)] == [
        ["[bold]error (s, lower is better)[/bold]"],
        ["3.00"],
    ]
    for folder, off in (("one", 1), ("two", 3)):
        model = Better()
        model.validations = off
        tester = quiet_trainer(run=tmp_path / folder, callbacks=[Evaluator(print_table=False)])
        tester.test(model, datamodule=moments(), verbose=False)
    written = json.loads((tmp_path / "one" / "metrics.json").read_text())["test"]
    assert written["mean"]["headline"] is None
    assert "<td>1.00</td>" in metric_table(written["datasets"]["a"])
    words = [str(tmp_path / "one"), str(tmp_path / "two"), "--format", "csv", "--resamples", "100"]
    assert main(["compare", *words]) == 0
    assert (
        'a,"error (s, lower is better)",3,1.00,3.00,+2.00,"(1) there is no interval'
        in capsys.readouterr().out
    )


def test_a_metric_without_a_bounded_range_stays_out_of_the_mean_of_the_others(tmp_path: Path) -> None:
    others = {
        s: [sample("b", i, s, "dog", "dog" if i else "bell") for i in range(2)] for s in ("train", "test")
    }
    others["val"] = others["test"]
    with pytest.warns(UserWarning, match=r"datasets\.a: its primary metric 'error' has no bounded range"):
        _, evaluator, run = fitted(tmp_path / "run", moments(others), monitor=None)
    assert run.callback_metrics["val/mean/headline"].item() == evaluator.results["b"]["strict"]["accuracy"]
    evaluator.results["a"]["scales"]["error"]["counts_as"] = [5.0, 0.0]
    share = 1 - evaluator.results["a"]["strict"]["error"] / 5
    other = evaluator.results["b"]["strict"]["accuracy"]
    assert mean_headline(evaluator.results) == pytest.approx((share + other) / 2)


def test_a_primary_metric_that_is_not_computed_stops_and_one_without_a_number_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MeanError, "compute", lambda self: torch.tensor(torch.nan))
    scores = DatasetScores("a", Moment(), DatasetSpec(task="moment", layout="a"))
    scores.add(Prediction(sample("a", 0, "val", "1", "1"), "1", 1, False))
    said = (
        r"data\.datasets\.a: the primary metric 'error' of the task 'moment' is not a number after 1 answers"
    )
    with pytest.warns(UserWarning, match=said):
        found = scores.result(scores.sums(), None)
    assert found["strict"] == {"error": None}
    monkeypatch.setattr(Moment, "headline", lambda self, spec: None)
    with pytest.warns(
        UserWarning, match="primary metric of the task 'moment' is not named by its `headline`"
    ):
        scores.result(scores.sums(), None)
    monkeypatch.setattr(Moment, "headline", lambda self, spec: "errors")
    said = r"'errors' of the task 'moment' is not one of .*mean 'error'\?\); they are: error\. Let Moment\."
    with pytest.raises(ValueError, match=said):
        scores.result(scores.sums(), None)


class NoInit(MeanError):
    def __init__(self) -> None:
        pass


class PlainTensors(MeanError):
    def __init__(self) -> None:
        BenchmarkMetric.__init__(self)
        self.sum_units = self.count = torch.zeros((), dtype=torch.int64)


@pytest.mark.parametrize("kind", [NoInit, PlainTensors])
def test_a_metric_without_states_is_refused(kind: type[MeanError], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moment, "metrics", lambda self, spec: made)
    made = MetricCollection([])
    made["error"] = kind()
    said = rf"datasets\.a: the metric 'error' \({kind.__name__}\) has no state, .* Call super\(\)\.__init__"
    with pytest.raises(ValueError, match=said):
        DatasetScores("a", Moment(), DatasetSpec(task="moment", layout="a"))


def test_a_metric_that_computes_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeanError, "compute", lambda self: None)
    scores = DatasetScores("a", Moment(), DatasetSpec(task="moment", layout="a"))
    scores.add(Prediction(sample("a", 0, "val", "1", "1"), "1", 1, False))
    said = (
        r"datasets\.a: the metrics of the task 'moment' cannot be computed: the metric 'error' computes None"
    )
    with pytest.raises(ValueError, match=said):
        scores.result(scores.sums(), None)


def test_a_direction_that_is_given_wins(tmp_path: Path) -> None:
    kept, _, _ = fitted(tmp_path / "run", moments(), monitor="val/moment/a/error", mode="max")
    assert kept.best_score == 3.0
    kept, evaluator, _ = fitted(tmp_path / "other", moments(), monitor="val/moment/a/error")
    assert kept.best_score == 1.0
    kinds = ("error", "likelihood_error", "likelihood_calibration_error", "unparsed_rate", "truncated_rate")
    assert {f"val/moment/a/{kind}" for kind in kinds} <= evaluator.lower_is_better
    assert "val/moment/a/likelihood_confidence" not in evaluator.lower_is_better


def test_a_headline_beyond_its_end_counts_as_one_and_below_as_none() -> None:
    scales = {"cider": {"high": 10.0, "counts_as": [0.0, 1.0]}, "d": {"low": None, "counts_as": [0.0, 1.0]}}
    results = {
        "a": {"headline": "cider", "strict": {"cider": 3.2}, "scales": scales},
        "b": {"headline": "accuracy", "strict": {"accuracy": 0.5}},
        "c": {"headline": "d", "strict": {"d": -2.0}, "scales": scales},
    }
    assert mean_headline(results) == pytest.approx((1.0 + 0.5 + 0.0) / 3)


@pytest.mark.parametrize(
    ("metric", "key", "wanted"),
    [
        (Accuracy(), "accuracy", Scale()),
        (MeanError(), "error", Scale(higher_is_better=False, high=None, unit="s")),
        (CaptionScores("none"), "cider", Scale(high=10.0, counts_as=(0.0, 1.0))),
        (CaptionScores("none"), "bleu_1", Scale()),
        (NullMaskS(), "crabplus_s", Scale(higher_is_better=False, high=None)),
        (NullMaskS("framewise"), "framewise_frames_per_batch", Scale(high=None, unit="")),
        (MeanAbsoluteError(), "error", Scale(higher_is_better=False, high=None, unit="")),
        (BinaryAccuracy(), "accuracy", Scale()),
    ],
)
def test_what_a_metric_says_is_read(metric: Any, key: str, wanted: Scale) -> None:
    assert scale_of(metric, key) == wanted


def test_shares_and_texts_follow_the_direction() -> None:
    assert Scale(higher_is_better=False).share(0.25) == 0.75
    assert Scale(high=None).share(0.5) is None
    assert Scale(unit="s").text(2.5) == "2.50"
    assert Scale().text(0.5) == "50.00"
    assert Scale(unit="s").signed(-0.5) == "−0.50"
    assert Scale().text(None) == "–"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unit": None}, "give a text"),
        ({"low": 1.0, "high": 0.0, "higher_is_better": False}, "low must be below high"),
        ({"low": 1.0}, "low must be below high"),
        ({"counts_as": (1.0,)}, "give two different numbers"),
        ({"counts_as": (0.5, 0.5)}, "give two different numbers"),
        ({"counts_as": (1.0, 0.0)}, "but higher is better"),
        ({"counts_as": (0.0, 1.0), "higher_is_better": False}, "but lower is better"),
    ],
)
def test_a_scale_that_would_turn_the_mean_round_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Scale(**options)


def test_a_scale_against_the_direction_of_its_metric_names_the_metric() -> None:
    metric = MeanError()
    metric.scale = Scale(high=None, counts_as=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"MeanError: counts_as .* lower is better"):
        scale_of(metric, "error")


@pytest.mark.parametrize(
    ("name", "stated", "words"),
    [
        ("scale", "seconds", "scale of MeanError is 'seconds'; give a crab_lightning.metrics.Scale"),
        ("scales", {"error": (0, 1)}, r"scales\['error'\] of MeanError is \(0, 1\); give"),
        ("scales", [Scale()], "scales of MeanError is .*; give a mapping from keys to Scale objects"),
        ("scale", Scale(high=None, counts_as=(0.0, 1.0)), "MeanError: counts_as .* lower is better"),
    ],
)
def test_a_wrong_scale_ends_a_run_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stated: Any, words: str
) -> None:
    monkeypatch.setattr(MeanError, name, stated)
    with pytest.raises(ValueError, match=f"data.datasets.a: a metric of the task 'moment': {words}"):
        fitted(tmp_path / "run", moments())


@pytest.mark.parametrize("stated", [Scale(), Scale(low=9.0, high=None, unit="s")])
def test_a_value_outside_the_range_of_its_metric_is_refused(
    monkeypatch: pytest.MonkeyPatch, stated: Scale
) -> None:
    monkeypatch.setattr(MeanError, "scale", stated)
    scores = DatasetScores("a", Moment(), DatasetSpec(task="moment", layout="a"))
    scores.add(Prediction(sample("a", 0, "val", "1", "1"), "4", 1, False))
    with pytest.raises(ValueError, match=r"data.datasets.a: MeanError returns 3 for 'error', but its scale"):
        scores.result(scores.sums(), None)


@pytest.mark.parametrize("score", [5.0, float("nan"), "good", -0.5])
def test_a_score_of_an_answer_outside_0_to_1_is_refused(score: Any) -> None:
    class Scored(Moment):
        def score(self, answer: Any, sample: Sample, spec: DatasetSpec) -> Any:
            return score

    scores = DatasetScores("a", Scored(), DatasetSpec("moment", "x"))
    with pytest.raises(ValueError, match=r"data.datasets.a: Scored.score returns .* from 0 to 1, or None"):
        scores.add(Prediction(sample("a", 0, "val", "3", "2"), "3"))
