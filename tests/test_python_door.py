"""The package from Python: names, a run that is loaded and asked, and errors without command-line words."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

import crab_lightning
from crab_lightning import (
    AdapterConfig,
    Answer,
    AVDataModule,
    Evaluator,
    OmniModule,
    fit,
    load_data,
    load_run,
    run_test,
    write_report,
)


@pytest.fixture(scope="module")
def run(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "data.root": small["mini"],
        "model.init_args.pretrained": small["tiny"],
        "model.init_args.max_new_tokens": 4,
        "data.num_workers": 0,
        "trainer.max_steps": 1,
        "trainer.callbacks": None,
        "trainer.logger": False,  # the run folder is not that of a logger
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
    assert repr(loaded) == "TrainedRun(OmniModule, trained on avqa_thu, ave)"
    model, data = loaded
    assert data.processor is model.processor


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "qa"}, r"needs `options` and `question`"),
        ({"task": "ave", "question": "why?"}, r"takes no `question`$"),
        ({"task": "dance"}, r"^`task` dance: this run has "),
        ({"task": "AVEE"}, r"^`task` AVEE \(did you mean 'ave'\?\): this run has "),
        ({"task": "qa", "dataset": "ave"}, "the task of the dataset ave is event_localization$"),
        ({"task": "ave", "at_s": 1.0}, r"takes no `at_s`, because it uses the whole clip$"),
        ({"task": "ave", "audio": "https://x/a.wav"}, "^https://x/a.wav is an address; download it first"),
        ({"task": "qa", "question": "x", "options": ["a", "b", "a"]}, "contain 'a' twice$"),
        ({"task": 3}, "^`task` is 3; it must be a text$"),
        ({"task": "ave", "at_s": "x"}, "^`at_s` is 'x'; it must be a number, or None$"),
        ({"task": "qa", "options": "abc"}, "^`options` is 'abc'; it must be a list, or None$"),
        ({"task": "ave", "audio": [None]}, "^`audio` is None; give a file, or a list of files$"),
        ({"task": "ave", "dataset": "x"}, r"^`dataset` x: this run has "),
        ({"task": "a2v", "untaught": True}, r"takes 2 `video` file\(s\); 1 given"),
        ({"task": "ave", "image": "x.png"}, "x.png is not a file"),
        ({"task": "ks"}, r"^this run was not trained on the dataset ks\. .* Give `untaught` to ask"),
        ({"task": "ave", "silent": True, "audio": __file__}, r"`silent` replaces all sound by silence"),
    ],
)
def test_errors_name_arguments_and_no_options(
    run: Path, small: dict[str, Path], given: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load_run(run, device="cpu").ask(video=clip(small), **given)
    assert "--" not in str(caught.value)


def test_a_misspelt_setting_of_the_data_is_named(small: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"there is no key 'data\.roott' \(did you mean 'data\.root'\?\)$"):
        load_data("data/av_uie_v2.yaml", roott=small["mini"])


def test_several_threads_may_ask(run: Path, small: dict[str, Path]) -> None:
    loaded = load_run(run, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(loaded.ask, "ave", video=clip(small)) for _ in range(12)]
    assert len({one.result().text for one in asked}) == 1


def test_a_question_that_the_model_cannot_read_is_refused(run: Path, small: dict[str, Path]) -> None:
    words = {"question": "w " * 40_000, "options": ["a bell", "a dog"]}
    with pytest.raises(
        ValueError, match=r"the question has \d\d,\d{3} tokens.*; the model reads at most 32,768"
    ):
        load_run(run, device="cpu").ask("qa", video=clip(small), **words)


def test_adapters_with_a_shipped_config_are_found_from_any_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_run(run / "adapter", config="demo.yaml", device="cpu", trained=False)
    assert Path(loaded.model.pretrained).is_absolute()
    with pytest.raises(ValueError, match=rf"contains no adapter\.json; give {run}/adapter$"):
        OmniModule(loaded.model.pretrained, load_adapter=run)


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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit(None), "^`config` is None; give the name or the path of a config file$"),
        (lambda: fit("none.yaml"), r"^config none\.yaml: no such file in"),
        (lambda: fit("demo.yaml", ["data.root=x"]), r"^`settings` is \['data\.root=x'\]; give a dictionary"),
        (
            lambda: fit("demo.yaml", {"--data.root": "x"}),
            "^`settings` has the key '--data.root'; give keys of",
        ),
        (lambda: fit("demo.yaml", {"help": True}), "^`settings` has the key 'help'"),
        (
            lambda: fit("demo.yaml", {"data.only": {"ave"}}),
            r"^`settings` has \{'ave'\} for 'data\.only'; give a",
        ),
        (lambda: fit("demo.yaml", {}, folder=3), "^`folder` is 3; give a path$"),
        (
            lambda: fit("demo.yaml", only=["avee"]),
            r"^`only` avee: there is no dataset avee \(did you mean 'ave'",
        ),
        (
            lambda: fit("demo.yaml", {"model.init_args.adapter.alpha": math.nan}),
            r"adapter\.alpha is nan; it must",
        ),
        (lambda: run_test(""), "^`run` is ''; give a run folder or a checkpoint$"),
        (lambda: write_report(None), "^`run` is None; give a run folder with results$"),
        (lambda: load_run(None), "^`checkpoint` is None; give a run folder"),
        (
            lambda: load_data("demo.yaml", root="x", only="ave"),
            "^data.only is 'ave'; it must be a list, or null",
        ),
        (lambda: AdapterConfig(alpha="8"), "^adapter.alpha is '8'; it must be a number$"),
        (
            lambda: AdapterConfig(kind=["lora"]),
            r"^adapter\.kind is \['lora'\] \(did you mean 'lora'\?\); known: ",
        ),
        (
            lambda: AdapterConfig(target_modules=["q", 3]),
            r"^adapter\.target_modules\.1 is 3; it must be a text$",
        ),
        (
            lambda: Evaluator(decoding="greedy"),
            "^evaluator.decoding is 'greedy'; it must be one of generate, ",
        ),
        (lambda: OmniModule(None), "^model.pretrained is None; it must be a text$"),
        (
            lambda: OmniModule("x", adapter={"kind": "lora"}),
            "^model.adapter is .* an object of AdapterConfig, or",
        ),
        (
            lambda: OmniModule("x", max_new_tokens="8"),
            "^model.max_new_tokens is '8'; it must be a whole number$",
        ),
        (lambda: AVDataModule("x", {"a": 3}, {}), "^data.tasks.a is 3; it must be an object of Task$"),
        (
            lambda: AVDataModule("x", {}, {}, batch_size="x"),
            "^data.batch_size is 'x'; it must be a whole number$",
        ),
    ],
)
def test_arguments_of_the_wrong_type_are_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        call()
    assert "--" not in str(caught.value).replace("'--data", "")


def test_errors_of_a_run_name_settings_and_no_options(run: Path, small: dict[str, Path]) -> None:
    for file in ("config.yaml", "adapter/adapter.safetensors"):
        with pytest.raises(ValueError, match=r"is no checkpoint; give a run folder, \.ckpt file or adapter "):
            load_run(run / file)
    with pytest.raises(ValueError, match="contains a run already") as caught:
        fit("demo.yaml", {"data.root": small["mini"]}, folder=run)
    assert "add `settings` {'ckpt_path': 'auto'}. To start a new run elsewhere, give another `folder`" in (
        said := str(caught.value)
    )
    assert "add `settings` {'run.replace': True}, which" in said


def test_a_data_part_becomes_a_data_module(small: dict[str, Path]) -> None:
    data = load_data("demo.yaml", root=small["mini"], only=["ave"])
    assert "ave" in data.datasets
    assert str(data.root) == str(small["mini"])
    with pytest.raises(ValueError, match=r"there is no data\.root; give it$"):
        load_data("data/av_uie_v2.yaml")
    with pytest.raises(ValueError, match=r"as AVDataModule has; the trainer has BoringDataModule\. Give"):
        Trainer(callbacks=[Evaluator()], logger=False, accelerator="cpu").test(
            BoringModel(), BoringDataModule()
        )
    with pytest.raises(ValueError, match="batch_siz"):
        load_data("demo.yaml", batch_siz=3)
