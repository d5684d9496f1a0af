"""Every switch of Lightning's Trainer works in a run, or is refused in one line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from tests.runs.quick import quick

# Switches that go together share a run.
WORK: list[dict[str, Any]] = [
    {
        "min_epochs": 1, "min_steps": 1, "max_time": "00:01:00:00", "log_every_n_steps": 1,
        "enable_model_summary": "true", "gradient_clip_val": 1.0, "gradient_clip_algorithm": "value",
        "deterministic": "warn", "benchmark": "true", "detect_anomaly": "true", "profiler": "simple",
        "sync_batchnorm": "true", "inference_mode": "false", "use_distributed_sampler": "false",
        "num_sanity_val_steps": 1, "val_check_interval": 1, "reload_dataloaders_every_n_epochs": 1,
        "accumulate_grad_batches": 2, "check_val_every_n_epoch": 1, "enable_autolog_hparams": "false",
        "limit_predict_batches": 1, "default_root_dir": "elsewhere",
    },
    {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "bf16-mixed",
        "enable_checkpointing": "false", "max_steps": 1, "logger": "false", "limit_val_batches": 0,
        "plugins": "[]", "model_registry": "mine",
    },
    {"fast_dev_run": 1},
    {"enable_progress_bar": "true", "callbacks+": "TQDMProgressBar"},
    {"enable_progress_bar": "true", "callbacks+": "RichProgressBar"},
]  # fmt: skip

# What is wrong, or cannot be had here, with a part of the answer.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "barebones": ({"barebones": "true"}, "--trainer.enable_checkpointing false"),
    "half weights": ({"precision": "bf16-true"}, "--model.init_args.dtype bfloat16"),
    "overfit": ({"overfit_batches": 2}, "--data.datasets.NAME.limit"),
    "accelerator": ({"accelerator": "nix"}, "'nix'; it must be one of auto, gpu, cpu, cuda"),
    "strategy": ({"strategy": "nix"}, "nix"),
    **{
        name: ({"strategy": name, "devices": 2}, "Use --trainer.strategy ddp, which starts the same command")
        for name in sorted(StrategyRegistry)
        if StrategyRegistry[name]["init_params"].get("start_method") in ("spawn", "fork")
    },
    "class": (
        {"strategy": "DDPStrategy", "strategy.init_args.start_method": "spawn", "devices": 2},
        "starts its processes by spawn",
    ),
    "profiler": ({"profiler": "nix"}, "'nix'; it must be one of simple, advanced"),
    "devices": ({"devices": 0}, "devices"),
    "epochs": ({"max_epochs": 0}, "trainer.max_epochs is 0, so nothing would be trained"),
    "steps": ({"max_steps": 0}, "trainer.max_steps is 0, so nothing would be trained"),
    "batches": ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0, so nothing"),
}
OF_QUICK = {"max_epochs", "limit_train_batches", "limit_test_batches", "callbacks"}


def fit(small: dict[str, Path], folder: Path, switches: dict[str, Any]) -> int:
    words = [f"--trainer.{name}={value}" for name, value in switches.items()]
    try:
        return quick(small, "fit", f"--run.folder={folder}", *words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_lists_name_every_switch() -> None:
    listed = {key.rstrip("+") for run in WORK for key in run} | {k for s, _ in REFUSED.values() for k in s}
    switches = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert switches - listed - OF_QUICK == set()


@pytest.mark.parametrize("switches", WORK, ids=lambda one: next(iter(one)))
def test_switches_work(
    switches: dict[str, Any],
    small: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit(small, tmp_path / "run", switches) == 0
    assert "Traceback" not in capsys.readouterr().err
    if "fast_dev_run" not in switches and "limit_val_batches" not in switches:
        assert "val" in json.loads((tmp_path / "run/metrics.json").read_text())


@pytest.mark.parametrize("name", REFUSED)
def test_switch_is_refused_in_one_line(
    name: str, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    switches, part = REFUSED[name]
    assert fit(small, tmp_path / "run", switches) in (1, 2)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if not line.startswith("INFO")]
    assert "Traceback" not in said
    assert "probably a fault" not in said
    assert part in said
    assert len(lines) <= 2, said
    assert not (tmp_path / "run").exists()
