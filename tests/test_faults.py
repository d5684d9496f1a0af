"""Short forms of benchmarks/faults.py: faults put into real runs."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

REPO = Path(__file__).parents[1]


@pytest.mark.ddp
def test_killed_rank_ends_the_other_with_advice_and_one_process_goes_on(
    faults: ModuleType, small: dict[str, Path], tmp_path: Path
) -> None:
    runs = faults.Runs(small["mini"], tmp_path, small["tiny"])
    children = runs.pair("run", "fsdp2")
    runs.wait_for_saves("run")
    os.kill(children[1], signal.SIGKILL)
    ends = [runs.wait(child, 120) for child in children]
    assert ends[1] == -signal.SIGKILL
    assert ends[0] not in (0, None), "the survivor has to notice"
    assert "Another process of this run has ended" in runs.log("run.0")
    saved = runs.state("run")["global_step"]
    alone = runs.fit(runs.folder("run"), f"--trainer.max_steps={saved + 1}", "--data.epoch_size=12")
    assert runs.wait(alone) == 0, runs.log("run")
    assert runs.state("run")["global_step"] == saved + 1


@pytest.mark.ddp
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_loss_that_is_not_finite_on_one_process_stops_all_of_them(
    strategy: str, faults: ModuleType, small: dict[str, Path], tmp_path: Path
) -> None:
    runs = faults.Runs(small["mini"], tmp_path, small["tiny"])
    spoil = {"": "tests.runs.interrupters.SpoilSound", ".step": 2, ".rank": 1}
    words = [f"--trainer.callbacks{k or '+'}={v}" for k, v in spoil.items()]
    children = runs.pair("run", strategy, *words)
    assert [runs.wait(child, 120) for child in children] == [1, 1]
    said = [
        re.findall(r"error: (step 3: the loss is not finite; samples: .*)", runs.log(f"run.{rank}"))
        for rank in (0, 1)
    ]
    assert said[0] == said[1] != [], "the sample of the other process is named on both"
    assert "Traceback" not in runs.log("run.0") + runs.log("run.1")
    kept = runs.state("run")
    assert kept["global_step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in kept["state_dict"].values())


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")
def test_run_of_two_devices_whose_second_process_is_killed_says_how_to_go_on(
    small: dict[str, Path], tmp_path: Path
) -> None:
    options = {
        "data.root": small["mini"], "model.init_args.pretrained": small["tiny"], "only": "ave",
        "data.num_workers": 0, "data.batch_size": 1, "data.epoch_size": 12, "checkpoint.every_n_steps": 1,
        "trainer.devices": 2, "trainer.strategy": "ddp", "trainer.enable_progress_bar": "false",
        "trainer.limit_val_batches": 0, "run.folder": tmp_path / "run",
        "trainer.callbacks+": "tests.runs.interrupters.SignalAt", "trainer.callbacks.step": 2,
        "trainer.callbacks.name": "SIGKILL", "trainer.callbacks.rank": 1,
    }  # fmt: skip
    words = [
        "fit",
        "--config",
        "demo.yaml",
        "--allow-code-of=tests",
        *(f"--{k}={v}" for k, v in options.items()),
    ]
    done = subprocess.run(
        [sys.executable, REPO / "cli.py", *words],
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode not in (0, None)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "[rank 0] Another process of this run has ended or does not answer, after step" in said
    assert f"--ckpt_path {tmp_path / 'run/checkpoints/last.ckpt'}" in said


@pytest.mark.slow
@pytest.mark.ddp
def test_nothing_is_lost_by_any_fault(faults: ModuleType, small: dict[str, Path], tmp_path: Path) -> None:
    random.seed(0)
    runs = faults.Runs(small["mini"], tmp_path, small["tiny"])
    found = {
        "training": faults.kill_runs(runs, "training", 3),
        "saving": faults.kill_runs(runs, "saving", 3),
        "testing": faults.kill_tests(runs, 2),
        "full": faults.fill_disk(runs),
        **dict(faults.damage_checkpoints(runs)),
        **{name: what for strategy in ("ddp", "fsdp2") for name, what in faults.kill_ranks(runs, strategy)},
    }
    lost = {name: what[1] for name, what in found.items() if not what[1].startswith(("nothing", "0 of"))}
    assert lost == {"both checkpoints halved": "the run; adapter/ is whole"}
