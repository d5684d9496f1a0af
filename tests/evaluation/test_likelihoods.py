"""Closed-set answers by likelihood: scores, calibration, files, resuming."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.evaluation import Evaluator
from crab_lightning.evaluation.likelihoods import choose, offer_candidates
from crab_lightning.structures import Batch, CandidateScores, DatasetSpec, Prediction, Sample
from tests.evaluation.fakes import CLASSES, Naming, Parrot, Rows, sample
from tests.evaluation.test_evaluator import records, trainer

LONG = {"bell": 1, "dog": 4, "horn": 1}  # tokens


class Closed(Naming):
    """Offers its three classes, those of the dataset ``open`` not."""

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, int] | None:
        return None if sample.dataset == "open" else {name: i for i, name in enumerate(CLASSES)}


class Weigher(Parrot):
    """Finds candidates as likely as the sample's field ``shares`` says, or its row, in the classes' order."""

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__(die_after)
        self.decoding = "generate"
        self.candidates: Any = None

    def _answer(self, batch: Batch) -> dict[str, Any]:
        made = []
        for said in super()._answer(batch)["predictions"]:
            texts = tuple(self.candidates(said.sample)) if self.decoding != "generate" else ()
            if texts:
                turned = [(0.6, 0.3, 0.1)[(said.sample.row + i) % 3] for i in range(3)]
                values = tuple(math.log(share) for share in said.sample.fields.get("shares", turned))
                found = CandidateScores(texts, values, tuple(LONG[t] for t in texts))
                text = "" if self.decoding == "likelihood" else said.text
                said = Prediction(said.sample, text, said.tokens, said.truncated, found)
            made.append(said)
        return {"predictions": made}


def weighed(key: int, says: str, label: str, shares: list[float], dataset: str = "shut") -> Sample:
    made = sample(dataset, key, "test", says, label)
    return Sample(**{**vars(made), "fields": {**made.fields, "shares": shares}})


def rows() -> Rows:
    test = [
        weighed(0, "???", "bell", [0.7, 0.2, 0.1]),
        weighed(1, "dog", "dog", [0.5, 0.3, 0.2]),
        weighed(2, "horn", "horn", [0.1, 0.1, 0.8]),
        weighed(3, "bell", "bell", [1.0, 1.0, 1.0], "open"),
    ]
    data = Rows(
        {"train": [sample(name, 0, "train", "", "dog") for name in ("shut", "open")], "val": [], "test": test}
    )
    data.tasks = {"naming": Closed()}
    return data


def run(folder: Path, model: Parrot | None = None, **options: Any) -> tuple[Any, Evaluator]:
    evaluator = Evaluator(print_table=False, **options)
    made = trainer(folder, evaluator)
    made.test(model or Weigher(), datamodule=rows(), verbose=False)
    return made, evaluator


def test_both_shows_likelihood_beside_what_the_model_wrote(tmp_path: Path) -> None:
    made, evaluator = run(tmp_path / "run", decoding="both")
    result = evaluator.results["shut"]
    assert result["strict"] == {"accuracy": pytest.approx(2 / 3)}  # one answer cannot be read
    assert result["likelihood"] == {"accuracy": pytest.approx(2 / 3)}  # the dog is outweighed by the bell
    assert result["counts"]["weighed"] == 3
    calibration = result["calibration"]
    assert calibration["confidence"] == pytest.approx((0.7 + 0.5 + 0.8) / 3)
    assert calibration["error"] == pytest.approx((0.3 + 0.5 + 0.2) / 3)
    logged = {k: v.item() for k, v in made.callback_metrics.items()}
    assert logged["test/naming/shut/likelihood_accuracy"] == pytest.approx(2 / 3)
    assert logged["test/naming/shut/likelihood_confidence"] == pytest.approx(2 / 3)
    assert logged["test/naming/shut/likelihood_calibration_error"] == pytest.approx(1 / 3)
    assert evaluator.results["open"]["calibration"] is None
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["datasets"]["shut"] == result


def test_likelihood_makes_the_choice_the_answer_and_leaves_open_questions_to_words(tmp_path: Path) -> None:
    _, evaluator = run(tmp_path / "run", decoding="likelihood")
    result = evaluator.results["shut"]
    assert result["strict"] == result["valid_only"] == result["likelihood"]
    assert result["counts"]["unparsed"] == 0
    assert [r["answer"] for r in records(tmp_path / "run/predictions/shut.jsonl")] == ["bell", "bell", "horn"]
    assert records(tmp_path / "run/predictions/open.jsonl")[0]["answer"] == "bell"


def test_mean_takes_away_what_length_costs(tmp_path: Path) -> None:
    _, evaluator = run(tmp_path / "run", decoding="likelihood", candidate_score="mean")
    # log(0.3) / 4 tokens is above log(0.5), log(0.2) / 4 below log(0.7), log(0.1) / 4 below log(0.8)
    assert [r["choice"] for r in records(tmp_path / "run/predictions/shut.jsonl")] == ["bell", "dog", "horn"]
    assert evaluator.results["shut"]["likelihood"] == {"accuracy": 1.0}


def test_record_keeps_every_candidate_with_its_probability(tmp_path: Path) -> None:
    run(tmp_path / "run", decoding="both")
    first = records(tmp_path / "run/predictions/shut.jsonl")[0]
    assert (first["answer"], first["parsed"], first["score"]) == ("???", None, 0.0)
    assert (first["choice"], first["choice_right"]) == ("bell", True)
    assert first["confidence"] == pytest.approx(0.7)
    assert [(c["text"], c["tokens"]) for c in first["candidates"]] == list(LONG.items())
    assert [c["probability"] for c in first["candidates"]] == pytest.approx([0.7, 0.2, 0.1])


def test_killed_test_resumes_with_its_weighed_candidates(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", decoding="likelihood")
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "run", Weigher(die_after=2), decoding="likelihood")
    with pytest.raises(ValueError, match=r"other settings \(evaluator\.decoding differ\)"):
        run(tmp_path / "run", Weigher(), decoding="both")
    again = Weigher()
    _, resumed = run(tmp_path / "run", again, decoding="likelihood")
    assert again.asked == ["shut/test/2", "open/test/3"]
    assert resumed.results == whole.results
    paths = [tmp_path / name / "predictions/shut.jsonl" for name in ("run", "whole")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_model_that_cannot_weigh_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="Parrot cannot compute the probability of candidate answers; set it to generate"
    ):
        run(tmp_path / "run", Parrot(), decoding="both")


def test_table_shows_likelihood_and_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = Evaluator(decoding="both", print_table="all")
    trainer(tmp_path / "run", evaluator).test(Weigher(), datamodule=rows(), verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert any("likelihood" in line and "calib. error" in line for line in lines)
    assert any("shut" in line and line.count("66.67") == 2 and "33.33" in line for line in lines)


def test_a_choice_that_is_right_in_part_is_not_right() -> None:
    class Half(Closed):
        def score(self, answer: int | None, sample: Sample, spec: DatasetSpec) -> float:
            return 0.5

    scores = CandidateScores(tuple(CLASSES), (-1.0, -2.0, -3.0), (1, 1, 1))
    asked = sample("shut", 0, "test", "bell", "bell")
    found = [choose(task, asked, DatasetSpec("naming", "x"), scores, "sum") for task in (Half(), Closed())]
    assert [choice.text for choice in found] == ["bell", "bell"]
    assert [choice.right for choice in found] == [False, True]


@pytest.mark.parametrize("offered", [["dog", "bell"], {1: "dog"}, "dog"])
def test_candidates_that_are_no_dictionary_of_texts_are_refused(tmp_path: Path, offered: Any) -> None:
    module, data = Weigher(), rows()
    data.tasks = {"naming": type("Guest", (Naming,), {"candidates": lambda *_: offered})()}
    offer_candidates(module, data, "likelihood")
    with pytest.raises(ValueError, match=r"Guest\.candidates returns .*; it must return a dictionary with"):
        module.candidates(data.samples("test")[0])
