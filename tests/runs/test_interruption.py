from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.runs import RunCheckpoint
from crab_lightning.runs.interruption import requeue
from tests.evaluation.fakes import Parrot
from tests.runs.test_checkpoint import fit


class Warned(Parrot):
    """Gets SLURM's warning in its second training step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job of one task, with a ``scontrol`` that notes what it is asked."""
    job = {"NTASKS": 1, "JOB_NAME": "job", "JOB_ID": 7, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in {**job, "STEP_NODELIST": "localhost", "JOB_NUM_NODES": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    control = tmp_path / "bin" / "scontrol"
    control.parent.mkdir()
    control.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    control.chmod(control.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{control.parent}:{os.environ['PATH']}")
    return tmp_path / "asked"


def test_warning_of_slurm_saves_a_whole_step_and_requeues_the_job(asked: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit):
        fit(tmp_path / "run", Warned(), RunCheckpoint())
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 2
    assert asked.read_text() == "requeue 7\n"
    assert not list(tmp_path.rglob("hpc_ckpt*")), "Lightning's own save, in the middle of a step"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_job_that_slurm_does_not_take_back_is_named(
    asked: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    requeue()
    assert "SLURM did not requeue job 7" in caplog.text
    assert not asked.exists()
