"""The package from Python: names, a run that is loaded and asked, and errors without command-line words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import crab_lightning
from crab_lightning import Answer, fit, load_data, load_run, run_test


@pytest.fixture(scope="module")
def run(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "data.root": small["mini"],
        "model.init_args.pretrained": small["tiny"],
        "model.init_args.max_new_tokens": 4,
        "data.num_workers": 0,
        "trainer.max_steps": 1,
        "trainer.callbacks": None,
    }
    folder = tmp_path_factory.mktemp("door") / "run"
    assert fit("demo.yaml", settings, folder=folder, only="ave,avqa_thu") == folder
    return folder


def clip(small: dict[str, Path]) -> Path:
    return next((small["mini"] / "AVUIE_2").rglob("*.mp4"))


def test_every_name_is_there_and_importing_the_package_imports_nothing_heavy() -> None:
    assert all(getattr(crab_lightning, name) is not None for name in crab_lightning.__all__)
    assert {"AVDataModule", "OmniModule", "AdapterConfig", "Evaluator", "load_run"} <= {
        *crab_lightning.__all__
    }
    code = (
        "import sys, crab_lightning; print([m for m in ('torch', 'lightning', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_is_asked_and_answers_with_a_typed_object(run: Path, small: dict[str, Path]) -> None:
    loaded = load_run(run, device="cpu")
    words = {"question": "What rings?", "options": ["a bell", "a dog", "a horn", "rain"]}
    answer = loaded.ask("qa", video=clip(small), **words)
    assert isinstance(answer, Answer)
    assert (answer.task, answer.dataset) == ("question_answering", "avqa_thu")
    assert answer.tokens <= 4
    assert str(answer) == answer.text
    model, data = loaded
    assert data.processor is model.processor


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "qa"}, r"needs `options` and `question`"),
        ({"task": "ave", "question": "why?"}, r"takes no `question`$"),
        ({"task": "dance"}, r"^`task` dance: this run has "),
        ({"task": "ave", "dataset": "x"}, r"^`dataset` x: this run has "),
        ({"task": "a2v", "untaught": True}, r"takes 2 `video` file\(s\); 1 given"),
        ({"task": "ave", "image": "x.png"}, "x.png is not a file"),
        ({"task": "ks"}, r"^this run was not trained on the dataset ks\. .* Give `untaught` to ask"),
        ({"task": "ave", "silent": True, "audio": __file__}, r"`silent` puts silence in the place"),
    ],
)
def test_errors_name_arguments_and_no_options(
    run: Path, small: dict[str, Path], given: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load_run(run, device="cpu").ask(video=clip(small), **given)
    assert "--" not in str(caught.value)


def test_a_run_is_tested_and_its_scores_are_returned(run: Path) -> None:
    scores = run_test(run, {"trainer.callbacks": None})
    assert set(scores) == {"ave", "avqa_thu"}
    assert "segment_accuracy" in scores["ave"]["strict"]


def test_wrong_keys_and_values_are_exceptions() -> None:
    with pytest.raises(ValueError, match=r"there is no key 'trainer\.max_epoch' \(did you mean"):
        fit("demo.yaml", {"trainer.max_epoch": 1})
    with pytest.raises(ValueError, match=r"adapter\.rank is 0"):
        fit("demo.yaml", {"model.init_args.adapter.rank": 0})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_run("nowhere")


def test_a_data_part_becomes_a_data_module(small: dict[str, Path]) -> None:
    data = load_data("demo.yaml", root=small["mini"], only=["ave"])
    assert "ave" in data.datasets
    assert str(data.root) == str(small["mini"])
    with pytest.raises(ValueError, match="batch_siz"):
        load_data("demo.yaml", batch_siz=3)
