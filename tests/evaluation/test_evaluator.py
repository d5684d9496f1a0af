from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from crab_lightning.evaluation import Evaluator
from crab_lightning.evaluation.majority import majority_answers
from crab_lightning.structures import Batch
from tests.evaluation.fakes import CLASSES, Parrot, Rows, sample
from tests.quiet import quiet_trainer


def splits() -> dict[str, list[Any]]:
    train = [sample("a", i, "train", "bell", "bell" if i else "dog") for i in range(3)]
    train += [sample("b", i, "train", "horn", "horn") for i in range(2)]
    test = [
        sample("a", 0, "test", "bell", "bell"),
        sample("a", 1, "test", "dog", "bell"),
        sample("a", 2, "test", "???", "dog"),
        sample("a", 3, "test", "dog", "dog", truncated=True),
        sample("b", 0, "test", "horn", "horn"),
    ]
    return {"train": train, "val": [s for s in test if not s.fields["truncated"]], "test": test}


def trainer(folder: Path, evaluator: Evaluator, **options: Any) -> Trainer:
    return quiet_trainer(run=folder, callbacks=[evaluator], **options)


def run_test(
    folder: Path, data: Rows, model: Parrot | None = None, ckpt_path: Path | None = None, **options: Any
) -> tuple[Trainer, Evaluator]:
    evaluator = Evaluator(print_table=False)
    evaluator.identity = {"data.seed": 1}
    run = trainer(folder, evaluator, **options)
    run.test(model or Parrot(), datamodule=data, ckpt_path=ckpt_path, verbose=False)
    return run, evaluator


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_strict_counts_unreadable_answers_as_wrong_and_reads_those_cut_off(tmp_path: Path) -> None:
    _, evaluator = run_test(tmp_path / "run", Rows(splits()))
    result = evaluator.results["a"]
    assert result["strict"] == {"accuracy": 2 / 4}
    assert result["valid_only"] == {"accuracy": 2 / 3}
    counts = {k: result["counts"][k] for k in ("scored", "unparsed", "truncated", "missing")}
    assert counts == {"scored": 4, "unparsed": 1, "truncated": 1, "missing": 0}


def test_majority_baseline_is_the_most_frequent_training_answer(tmp_path: Path) -> None:
    _, evaluator = run_test(tmp_path / "run", Rows(splits()))
    assert evaluator.results["a"]["majority_answer"] == "bell"
    assert evaluator.results["a"]["majority"] == {"accuracy": 2 / 4}


def test_validation_rows_count_for_the_majority_unless_they_are_tested() -> None:
    rows = {
        "train": [sample("a", 0, "train", "", "dog")],
        "val": [sample("a", n, "val", "", "horn") for n in (1, 2)],
    }
    for test, most in (([sample("a", 0, "test", "", "dog")], "horn"), (rows["val"], "dog")):
        assert majority_answers(Rows({**rows, "test": test})) == {"a": CLASSES.index(most)}


def test_every_value_is_logged_under_split_task_dataset_metric(tmp_path: Path) -> None:
    run, _ = run_test(tmp_path / "run", Rows(splits()))
    logged = {key: value.item() for key, value in run.callback_metrics.items()}
    assert logged["test/naming/a/accuracy"] == pytest.approx(2 / 4)
    assert logged["test/naming/b/accuracy"] == 1
    assert logged["test/naming/a/unparsed_rate"] == pytest.approx(1 / 4)
    assert logged["test/mean/headline"] == pytest.approx((2 / 4 + 1) / 2)


def test_repeated_samples_are_neither_scored_nor_written(tmp_path: Path) -> None:
    _, evaluator = run_test(tmp_path / "run", Rows(splits(), repeat_last=True))
    assert evaluator.results["b"]["counts"]["scored"] == 1
    assert len(records(tmp_path / "run/predictions/b.jsonl")) == 1


def test_prediction_record_holds_prompt_reference_raw_and_parsed_answer(tmp_path: Path) -> None:
    run_test(tmp_path / "run", Rows(splits()))
    first, *_, last = records(tmp_path / "run/predictions/a.jsonl")
    assert first == {
        "id": "a/test/0",
        "dataset": "a",
        "task": "naming",
        "prompt": "Look: <video>what is it?",
        "reference": "bell",
        "truth": "bell",
        "answer": "bell",
        "parsed": "bell",
        "score": 1.0,
        "truncated": False,
        "tokens": 3,
    }
    assert (last["parsed"], last["score"], last["truncated"]) == ("dog", 1.0, True)


def test_metrics_json_holds_every_dataset_and_the_mean(tmp_path: Path) -> None:
    run_test(tmp_path / "run", Rows(splits()))
    content = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    assert content["whole_split"] is True
    assert list(content["datasets"]) == ["a", "b"]
    assert content["mean"]["headline"] == pytest.approx((2 / 4 + 1) / 2)
    assert content["datasets"]["a"]["headline"] == "accuracy"


def test_validation_adds_loss_over_target_tokens_per_dataset(tmp_path: Path) -> None:
    evaluator = Evaluator(print_table=False)
    run = trainer(tmp_path / "run", evaluator)
    run.validate(Parrot(), datamodule=Rows(splits()), verbose=False)
    # Rows 0, 1, 2 have summed losses 0, 1, 2 and two tokens each.
    assert evaluator.results["a"]["loss"] == pytest.approx(3 / 6)
    assert run.callback_metrics["val/naming/a/loss"].item() == pytest.approx(3 / 6)
    assert evaluator.results["a"]["strict"] == {"accuracy": 1 / 3}
    assert (tmp_path / "run/predictions/val/a.jsonl").is_file()


def test_killed_test_resumes_without_asking_twice_and_gives_the_same_files(tmp_path: Path) -> None:
    run_test(tmp_path / "whole", Rows(splits()))
    with pytest.raises(RuntimeError, match="killed"):
        run_test(tmp_path / "killed", Rows(splits()), Parrot(die_after=4))
    assert not (tmp_path / "killed/metrics.json").exists()
    again = Parrot()
    run_test(tmp_path / "killed", Rows(splits()), again)
    assert again.asked == ["b/test/0"]
    for name in ("a", "b"):
        whole, resumed = (tmp_path / run / f"predictions/{name}.jsonl" for run in ("whole", "killed"))
        assert resumed.read_bytes() == whole.read_bytes()
    whole, resumed = (
        json.loads((tmp_path / r / "metrics.json").read_text())["test"] for r in ("whole", "killed")
    )
    assert resumed["datasets"] == whole["datasets"]


def test_test_killed_behind_its_last_answer_makes_that_one_again(tmp_path: Path) -> None:
    # A loop without samples would end without its hooks, and so without results.
    run_test(tmp_path / "whole", Rows(splits()))
    parts = tmp_path / "run/predictions/.parts-test"
    parts.mkdir(parents=True)
    (parts / "identity.json").write_text('{"data.seed": 1}')
    for name in ("a", "b"):
        (parts / f"{name}.0-0.jsonl").write_bytes((tmp_path / f"whole/predictions/{name}.jsonl").read_bytes())
    again = Parrot()
    run_test(tmp_path / "run", Rows(splits()), again)
    assert again.asked == ["b/test/0"]
    assert len(records(tmp_path / "run/predictions/b.jsonl")) == 1


def test_killed_test_of_a_checkpoint_resumes_with_the_same_checkpoint_only(tmp_path: Path) -> None:
    saver = trainer(tmp_path / "saver", Evaluator())
    saver.strategy.connect(Parrot())
    paths = [tmp_path / name for name in ("first.ckpt", "second.ckpt")]
    for path in paths:
        saver.save_checkpoint(path)
    with pytest.raises(RuntimeError, match="killed"):
        run_test(tmp_path / "run", Rows(splits()), Parrot(die_after=4), paths[0])
    with pytest.raises(ValueError, match=r"other settings \(checkpoint differ\)"):
        run_test(tmp_path / "run", Rows(splits()), Parrot(), paths[1])
    again = Parrot()
    run_test(tmp_path / "run", Rows(splits()), again, paths[0])
    assert again.asked == ["b/test/0"]


def test_line_cut_off_by_the_kill_is_answered_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run_test(tmp_path / "run", Rows(splits()), Parrot(die_after=4))
    part = next((tmp_path / "run/predictions/.parts-test").glob("a.*.jsonl"))
    part.write_text(part.read_text()[:-20])
    run_test(tmp_path / "run", Rows(splits()))
    assert [r["id"] for r in records(tmp_path / "run/predictions/a.jsonl")] == [
        f"a/test/{i}" for i in range(4)
    ]


def test_other_settings_do_not_continue_a_killed_test(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run_test(tmp_path / "run", Rows(splits()), Parrot(die_after=2))
    evaluator = Evaluator(print_table=False)
    evaluator.identity = {"data.seed": 2}
    with pytest.raises(ValueError, match=r"other settings \(data.seed differ\).*--run.folder"):
        trainer(tmp_path / "run", evaluator).test(Parrot(), datamodule=Rows(splits()), verbose=False)


def test_limited_test_reports_that_it_is_not_the_whole_split(tmp_path: Path) -> None:
    _, evaluator = run_test(tmp_path / "run", Rows(splits()), limit_test_batches=1)
    assert evaluator.results["a"]["counts"]["missing"] == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["whole_split"] is False


def test_sample_without_an_answer_is_missing_and_wrong(tmp_path: Path) -> None:
    data = Rows(splits())
    dropped = data.splits["test"][0]
    full = data._loader

    def loader(split: str, prompts: bool) -> Any:
        kept, data.splits[split] = data.splits[split], [s for s in data.splits[split] if s.id != dropped.id]
        made = full(split, prompts)
        data.splits[split] = kept
        return made

    data._loader = loader  # type: ignore[method-assign]
    _, evaluator = run_test(tmp_path / "run", data)
    assert evaluator.results["a"]["counts"]["missing"] == 1
    assert evaluator.results["a"]["strict"] == {"accuracy": 1 / 4}


def test_model_that_leaves_out_an_answer_stops_the_run(tmp_path: Path) -> None:
    class Lazy(Parrot):
        def test_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            return {"predictions": self._answer(batch)["predictions"][1:]}

    with pytest.raises(ValueError, match="returned 1 answers for 2 samples"):
        run_test(tmp_path / "run", Rows(splits()), Lazy())


def test_predict_writes_parsed_answers_without_scores(tmp_path: Path) -> None:
    evaluator = Evaluator(print_table=False)
    run = trainer(tmp_path / "run", evaluator)
    run.predict(Parrot(), datamodule=Rows(splits()), return_predictions=False)
    written = records(tmp_path / "run/predictions/predict/a.jsonl")
    assert [r["parsed"] for r in written] == ["bell", "dog", None, "dog"]
    assert "score" not in written[0]


def test_table_shows_percent_beside_the_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = Evaluator(print_table="all")
    trainer(tmp_path / "run", evaluator).test(Parrot(), datamodule=Rows(splits()), verbose=False)
    row = next(line for line in capsys.readouterr().out.splitlines() if "naming" in line and " a " in line)
    assert all(text in row for text in ("accuracy", "50.00", "66.67", "50.00", "1 (25%)"))


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    run_test(tmp_path / "run", Rows(splits()), fast_dev_run=True)
    assert not list(tmp_path.rglob("*.json*"))


def test_metrics_stay_on_the_cpu(tmp_path: Path) -> None:
    _, evaluator = run_test(tmp_path / "run", Rows(splits()))
    assert evaluator._scores["a"].strict["accuracy"].device == torch.device("cpu")


class Overflowing(Parrot):
    """Has a validation loss that is not a number for one sample."""

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = super().validation_step(batch, batch_idx, dataloader_idx)
        if "loss_sum" in found:
            bad = torch.tensor([s.dataset == "a" for s in batch.samples])
            found["loss_sum"] = found["loss_sum"].masked_fill(bad, float("nan"))
        return found


def test_validation_loss_that_is_not_finite_is_named_and_not_in_json(tmp_path: Path) -> None:
    evaluator = Evaluator(print_table=False)
    with pytest.warns(UserWarning, match=r"the validation loss of a/.* \(a\) is nan"):
        trainer(tmp_path / "run", evaluator).validate(Overflowing(), datamodule=Rows(splits()), verbose=False)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]["datasets"]
    assert written["a"]["loss"] is None
    assert written["b"]["loss"] is not None
