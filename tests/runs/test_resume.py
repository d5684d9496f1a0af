"""A run that is stopped anywhere and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from crab_lightning.commands import main

SIGNAL_AT = "tests.runs.interrupters.SignalAt"


def fit(small: dict[str, Path], folder: Path, *words: str) -> Any:
    """Train 2 epochs of 9 batches, 5 optimizer steps each, with dropout; return how it ended."""
    options = {
        "data.root": small["mini"],
        "model.init_args.pretrained": small["tiny"],
        "model.init_args.adapter.dropout": 0.1,
        "data.num_workers": 0,
        "data.batch_size": 1,
        "data.epoch_size": 9,
        "data.val_share": 0.3,
        "data.val_generate_per_dataset": 0,
        "trainer.accumulate_grad_batches": 2,
        "trainer.max_epochs": 2,
        "trainer.enable_progress_bar": "false",
        "evaluator.print_table": "false",
        "run.folder": folder,
        "only": "ave,ref_avs,a2v",
    }
    try:
        return main(["fit", "--config", "demo.yaml", *(f"--{k}={v}" for k, v in options.items()), *words])
    except BaseException as err:  # SystemExit and its like, as the process would end
        return err


def stop_at(step: int, name: str, in_validation: bool = False) -> list[str]:
    values = {"step": step, "name": name, "in_validation": str(in_validation).lower()}
    return [f"--trainer.callbacks+={SIGNAL_AT}", *(f"--trainer.callbacks.{k}={v}" for k, v in values.items())]


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread in every run: sums over several threads are made in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fit(small, folder) == 0
    return state(folder)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Give Ctrl-C back after a run that was interrupted, from when on Lightning ignores it."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.usefixtures("ctrl_c")
def test_run_killed_stopped_and_interrupted_ends_as_the_one_that_was_not(
    small: dict[str, Path], tmp_path: Path, whole: dict[str, Any], faults: ModuleType
) -> None:
    folder = tmp_path / "run"
    again = f"--ckpt_path={folder}"
    child = os.fork()
    if child == 0:  # pragma: no cover - killed before it could say so
        fit(small, folder, *stop_at(2, "SIGKILL"), "--checkpoint.every_n_steps=1")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert state(folder)["global_step"] == 2, "the last save, within an epoch"

    before = signal.getsignal(signal.SIGTERM)
    ended = fit(small, folder, again, *stop_at(4, "SIGTERM", in_validation=True))
    assert isinstance(ended, SystemExit)
    assert state(folder)["global_step"] == 5, "the state before the validation, which the next run repeats"
    assert signal.getsignal(signal.SIGTERM) == before

    ended = fit(small, folder, again, *stop_at(6, "SIGINT"), "--data.num_workers=2")
    assert isinstance(ended, SystemExit)
    assert ended.code == 130
    assert state(folder)["global_step"] == 7, "the step that was going on is finished first"

    assert fit(small, folder, again) == 0
    assert faults.differing(state(folder), whole) == []


def test_killed_loader_process_and_lost_connection_cost_no_step(
    small: dict[str, Path],
    tmp_path: Path,
    whole: dict[str, Any],
    faults: ModuleType,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    kill = ["--trainer.callbacks+=tests.runs.interrupters.KillLoaders", "--trainer.callbacks.step=2"]
    # torch's handler of lost processes is there already, as in a program that has used another loader.
    assert len(list(torch.utils.data.DataLoader([0, 1], num_workers=1))) == 2
    assert fit(small, folder, "--data.num_workers=1", *kill) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "which loads data, was killed by SIGKILL (a machine whose memory is full does this)" in said
    # The next one where the death shows late: batches that are missing in it are loaded without the process.
    assert state(folder)["global_step"] in (3, 4)
    ended = fit(small, folder, "--ckpt_path=auto", *stop_at(6, "SIGHUP"))
    assert isinstance(ended, SystemExit)
    assert state(folder)["global_step"] == 7, "the step that was going on is finished first"
    assert fit(small, folder, "--ckpt_path=auto") == 0
    assert faults.differing(state(folder), whole) == []


def test_run_that_was_stopped_within_an_epoch_goes_on_with_the_rest_of_it(
    small: dict[str, Path], tmp_path: Path, whole: dict[str, Any], faults: ModuleType
) -> None:
    # Within the accumulation of the second step of five: the run stops when this step is whole.
    stop = ["--trainer.callbacks+=tests.runs.interrupters.StopAfter", "--trainer.callbacks.batches=3"]
    folder = tmp_path / "run"
    assert fit(small, folder, *stop) == 0
    assert state(folder)["global_step"] == 2
    assert fit(small, folder, "--ckpt_path=auto") == 0
    assert faults.differing(state(folder), whole) == []


def test_run_with_max_steps_that_was_killed_after_an_epoch_loses_no_epoch(
    small: dict[str, Path], tmp_path: Path, whole: dict[str, Any], faults: ModuleType
) -> None:
    folder, steps = tmp_path / "run", "--trainer.max_steps=100"
    child = os.fork()
    if child == 0:  # pragma: no cover - killed before it could say so
        fit(small, folder, steps, *stop_at(6, "SIGKILL"))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert state(folder)["global_step"] == 5, "the last save, at the end of the first epoch"
    assert fit(small, folder, steps, "--ckpt_path=auto") == 0
    assert faults.differing(state(folder), whole) == []


def test_run_that_max_steps_ended_with_an_epoch_can_be_extended(
    small: dict[str, Path], tmp_path: Path
) -> None:
    for steps in (5, 8):
        assert fit(small, tmp_path / "run", f"--trainer.max_steps={steps}", "--ckpt_path=auto") == 0
        assert state(tmp_path / "run")["global_step"] == steps


def test_longer_max_steps_lose_no_part_of_an_epoch(small: dict[str, Path], tmp_path: Path) -> None:
    for words, steps in ((["--trainer.max_steps=3"], 3), (["--trainer.max_steps=7"], 7), ([], 10)):
        assert fit(small, tmp_path / "run", *words, "--ckpt_path=auto") == 0
        assert state(tmp_path / "run")["global_step"] == steps
    position = state(tmp_path / "run")["AVDataModule"]["position"]
    assert (position["epoch"], position["step"]) == (1, 9), "both epochs were drawn whole"


def test_no_frozen_weight_is_in_any_file(small: dict[str, Path], whole: dict[str, Any]) -> None:
    assert all(".lora_" in name for name in whole["state_dict"])
    weights = sum(value.numel() for value in whole["state_dict"].values())
    moments = sum(
        value.numel()
        for one in whole["optimizer_states"][0]["state"].values()
        for value in one.values()
        if value.ndim
    )
    assert moments == 2 * weights
