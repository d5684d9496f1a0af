"""A config is data: what it names is checked before it is imported, and only known classes are built."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crab_lightning.commands import main
from crab_lightning.configuration.allowed_code import (
    ForbiddenCode,
    allow_code_of,
    allowed_packages,
    without_training,
)
from crab_lightning.configuration.files import ConfigError, compose
from crab_lightning.configuration.objects import class_of

Edit = Callable[[dict[str, Any]], None]
TORCH_ADAMW = "torch.optim.AdamW"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package that leaves a file when it is imported or called; returns that file."""
    mark = tmp_path / "ran"
    package = tmp_path / "site" / "hostile"
    package.mkdir(parents=True)
    touch = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    (package / "__init__.py").write_text(f"{touch}\ndef call(*a, **k):\n    {touch}\nclass Kind: pass\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delenv("CRAB_ALLOW_CODE_OF", raising=False)
    yield mark
    sys.modules.pop("hostile", None)
    allow_code_of([])


def _set(*keys: Any, to: Any) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        node: Any = config
        for key in keys[:-1]:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        if isinstance(keys[-1], int):
            node.insert(keys[-1], to)
        else:
            node[keys[-1]] = to

    return edit


def _shell(mark: Path) -> dict[str, Any]:
    return {"class_path": "os.system", "init_args": {"command": f"touch {mark}"}}


MODEL = ("model", "init_args")
TASK = ("data", "tasks", "segmentation", "init_args")
SPECIMENS: dict[str, Callable[[Path], Edit]] = {
    "optimizer os.system": lambda m: _set(*MODEL, "optimizer", to=_shell(m)),
    "optimizer posix.system": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "posix.system", "init_args": {"command": f"touch {m}"}}
    ),
    "optimizer text": lambda m: _set(*MODEL, "optimizer", to="hostile.call"),
    "optimizer eval": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "builtins.eval", "dict_kwargs": {"source": f"open('{m}','w')"}}
    ),
    "optimizer Popen": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(m)]}}
    ),
    "optimizer through a trusted package": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "torch.os.system", "init_args": {"command": f"touch {m}"}}
    ),
    "optimizer a function of torch": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "torch.hub.load", "init_args": {"repo_or_dir": str(m)}}
    ),
    "optimizer a module of torch": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "torch.nn.Linear", "init_args": {"in_features": 1}}
    ),
    "optimizer a method": lambda m: _set(
        *MODEL, "optimizer", to="lightning.pytorch.LightningModule.load_from_checkpoint"
    ),
    "optimizer nested": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": TORCH_ADAMW, "init_args": {"lr": _shell(m)}}
    ),
    "optimizer dict_kwargs": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": TORCH_ADAMW, "dict_kwargs": {"x": _shell(m)}}
    ),
    "model": lambda m: _set("model", to=_shell(m)),
    "model text": lambda m: _set("model", to="hostile.Kind"),
    "model argument": lambda m: _set(*MODEL, "pretrained", to=_shell(m)),
    "adapter": lambda m: _set(*MODEL, "adapter", to=_shell(m)),
    "callback": lambda m: _set("trainer", "callbacks", 0, to={"class_path": "hostile.Kind"}),
    "callback text": lambda m: _set("trainer", "callbacks", 0, to="hostile.Kind"),
    "callback shell": lambda m: _set("trainer", "callbacks", 0, to=_shell(m)),
    "callback with a function": lambda m: _set(
        "trainer",
        "callbacks",
        0,
        to={
            "class_path": "lightning.pytorch.callbacks.LambdaCallback",
            "init_args": {"on_fit_start": "hostile.call"},
        },
    ),
    "callback with a trusted function": lambda m: _set(
        "trainer",
        "callbacks",
        0,
        to={
            "class_path": "lightning.pytorch.callbacks.LambdaCallback",
            "init_args": {"on_fit_start": "torch.hub.load"},
        },
    ),
    "callback nested": lambda m: _set(
        "trainer",
        "callbacks",
        0,
        to={
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": {"a": [_shell(m)]}},
        },
    ),
    "logger": lambda m: _set("trainer", "logger", to=_shell(m)),
    "logger list": lambda m: _set("trainer", "logger", to=[{"class_path": "hostile.Kind"}]),
    "logger save_dir": lambda m: _set(
        "trainer",
        "logger",
        to={"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": _shell(m)}},
    ),
    "plugins": lambda m: _set("trainer", "plugins", to=[_shell(m)]),
    "strategy": lambda m: _set("trainer", "strategy", to={"class_path": "hostile.Kind"}),
    "profiler": lambda m: _set("trainer", "profiler", to=_shell(m)),
    "task": lambda m: _set("data", "tasks", "segmentation", to=_shell(m)),
    "task text": lambda m: _set("data", "tasks", "segmentation", to="hostile.Kind"),
    "task of torch": lambda m: _set("data", "tasks", "segmentation", to={"class_path": "torch.nn.Identity"}),
    "mask decoder": lambda m: _set(*TASK, "mask_decoder", to=_shell(m)),
    "mask decoder text": lambda m: _set(*TASK, "mask_decoder", to="hostile.call"),
    "dataset row": lambda m: _set("data", "datasets", "ave", "weight", to=_shell(m)),
    "layout": lambda m: _set("data", "datasets", "ave", "layout", to="hostile.Kind"),
    "layout of the library": lambda m: _set("data", "datasets", "ave", "layout", to="antigravity.Kind"),
    "layout a function": lambda m: _set("data", "datasets", "ave", "layout", to="torch.os.system"),
    "by interpolation": lambda m: _set(
        *MODEL, "optimizer", to={"class_path": "${oc.env:HOSTILE}", "init_args": {"command": f"touch {m}"}}
    ),
}


@pytest.fixture(scope="module")
def config(small: dict[str, Path]) -> dict[str, Any]:
    """The demo's config on the smallest checkpoint and data root."""
    content = compose(["demo.yaml"])
    content["data"] |= {"root": str(small["mini"]), "num_workers": 0}
    content["model"]["init_args"] |= {"pretrained": str(small["tiny"]), "max_new_tokens": 4}
    return content


@pytest.mark.parametrize("name", list(SPECIMENS))
def test_a_hostile_config_runs_nothing_and_is_refused_in_words(
    name: str,
    config: dict[str, Any],
    trap: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOSTILE", "os.system")
    # Lightning may have been imported in another test, and then logs into the closed stream of that test.
    monkeypatch.setattr("logging.raiseExceptions", False)
    bad = copy.deepcopy(config)
    SPECIMENS[name](trap)(bad)
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(bad))
    status: object
    try:
        status = main(
            ["fit", "--config", str(path), f"--run.folder={tmp_path / 'run'}", "--trainer.max_steps=1"]
        )
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert status in (1, 2), said
    assert "Traceback" not in said
    print(name, "->", said)
    assert "hostile" not in sys.modules
    assert not trap.exists()


@pytest.mark.parametrize(
    "path", ["hostile.Kind", "os.system", "builtins.eval", "torch.os.system", "torch.hub.load"]
)
def test_class_of_imports_no_other_package_and_no_function(path: str, trap: Path) -> None:
    with pytest.raises(ForbiddenCode):
        class_of(path)
    assert not trap.exists()


def test_a_named_package_is_allowed_for_one_call_only(trap: Path) -> None:
    with pytest.raises(ForbiddenCode, match=r"add --allow-code-of hostile: the config may then run any code"):
        class_of("hostile.Kind")
    allow_code_of(["hostile"])
    assert class_of("hostile.Kind").__name__ == "Kind"
    with pytest.raises(ForbiddenCode, match="function"):
        class_of("hostile.call")
    allow_code_of([])
    assert "hostile" not in allowed_packages()


@pytest.mark.parametrize("how", ["file", "argument"])
def test_the_layout_of_a_dataset_is_imported_from_an_allowed_package_only(
    how: str, trap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.json").write_text("[]")
    row = {"task": "question_answering", "layout": "hostile.Kind"}
    config = tmp_path / "mine.yaml"
    config.write_text(
        yaml.safe_dump({"data": {"root": str(tmp_path), "only": ["mine"], "datasets": {"mine": row}}})
    )
    command = ["data", "check", "--root", str(tmp_path), "--config", str(config), "--workers", "0"]
    if how == "argument":
        row["layout"] = "plain"
        config.write_text(yaml.safe_dump({"data": {"datasets": {"mine": row}}}))
        command = ["fit", "--config", "demo.yaml", "--config", str(config), "--data.only", "[mine]"]
        command += ["--data.root", str(tmp_path), "--data.datasets.mine.layout", "hostile.Kind"]
    assert main(command) != 0
    assert "data.datasets.mine.layout" in (said := " ".join(capsys.readouterr().err.split())) or how == "file"
    assert "add --allow-code-of hostile" in said
    assert not trap.exists()
    if how == "file":
        assert main([*command, "--allow-code-of", "hostile"]) != 0
        assert "derived from crab_lightning.data.Layout" in " ".join("".join(capsys.readouterr()).split())
        assert trap.exists()


def test_the_config_of_a_run_loses_what_only_training_needs(config: dict[str, Any]) -> None:
    own = "crab_lightning.dashboards.MaskSheets"
    given = copy.deepcopy(config)
    given["trainer"] |= {
        "callbacks": [own, "hostile.Kind", {"class_path": "lightning.pytorch.callbacks.Timer"}],
        "logger": [{"class_path": "hostile.Kind"}],
        "profiler": "simple",
    }
    kept, taken = without_training(given, of_run=True)
    assert "optimizer" not in kept["model"]["init_args"]
    assert kept["trainer"]["callbacks"] == [own]
    assert "logger" not in kept["trainer"]
    assert kept["trainer"]["profiler"] == "simple"
    assert taken == ["trainer.logger", "hostile.Kind", "lightning.pytorch.callbacks.Timer"]
    assert without_training(given, of_run=False)[0]["trainer"] == given["trainer"]


def _yaml_of(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['true']",
        "model: !!python/name:os.system",
        "model: !include /etc/passwd",
        "a: " + "[" * 3000 + "]" * 3000,
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        + "\n".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)),
        "a: &a [*a]",
        "a: 2026-99-99",
    ],
)
def test_hostile_yaml_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml(, line \d+, column \d+)?: "):
        compose([_yaml_of(text, tmp_path)])


def test_the_config_of_a_run_reads_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    path = _yaml_of("data: {root: '${oc.env:SECRET}'}", tmp_path)
    assert compose([path])["data"]["root"] == "s3cret"
    assert compose([path], of_run=True)["data"]["root"] == "${oc.env:SECRET}"


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_in_a_folder_of_weights_is_not_run(
    name: str, small: dict[str, Path], tmp_path: Path, trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crab_lightning.models import OmniModule

    folder = tmp_path / "weights"
    shutil.copytree(small["tiny"], folder)
    classes = (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoProcessor",
        "AutoTokenizer",
        "AutoImageProcessor",
    )
    (folder / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(trap)!r}).touch()\nclass Kind: pass\n"
    )
    content = json.loads((folder / name).read_text()) | {"auto_map": dict.fromkeys(classes, "evil.Kind")}
    (folder / name).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # a user who says yes to whatever asks
    with contextlib.suppress(ValueError):
        module = OmniModule(str(folder), dtype="float32")
        module.configure_model()
        assert module.processor is not None
    assert not trap.exists()


def test_a_run_from_elsewhere_is_asked_and_tested_without_what_its_config_adds(
    config: dict[str, Any],
    small: dict[str, Path],
    trap: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    words = ["--only=ave", f"--run.folder={run}", "--trainer.max_steps=1", "--trainer.callbacks=null"]
    assert main(["fit", "--config", str(plain), *words]) == 0
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["model"]["init_args"]["optimizer"] = _shell(trap)
    stored["trainer"]["callbacks"] = [{"class_path": "hostile.Kind"}, _shell(trap)]
    stored["trainer"]["logger"] = {"class_path": "hostile.Kind"}
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    clip = next((small["mini"]).rglob("*.mp4"))
    ask = ["ask", "--checkpoint", str(run), "--task", "ave", "--video", str(clip), "--json"]
    assert main(ask) == 0
    assert main(["test", f"--ckpt_path={run}", "--trainer.limit_test_batches=1"]) == 0
    said = capsys.readouterr().err
    assert ("test does not use these parts of the run's config: trainer.logger, hostile.Kind") in said
    assert main(["fit", f"--ckpt_path={run}", "--trainer.max_steps=2"]) in (1, 2)
    assert "hostile" not in sys.modules
    assert not trap.exists()
