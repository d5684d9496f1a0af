from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from crab_lightning.dashboards import TrainScalars
from crab_lightning.evaluation import Evaluator
from crab_lightning.runs import RunCheckpoint, find_checkpoint, find_run
from crab_lightning.runs.checkpoint_files import CheckpointError
from tests.evaluation.fakes import Parrot, Rows
from tests.evaluation.test_evaluator import splits
from tests.quiet import quiet_trainer


def fit(folder: Path, model: Parrot, checkpoint: RunCheckpoint, **options: Any) -> Trainer:
    options = {"max_epochs": 2} | options
    run = quiet_trainer(
        run=folder,
        callbacks=[Evaluator(print_table=False), checkpoint, TrainScalars()],
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **options,
    )
    run.fit(model, datamodule=Rows(splits()))
    return run


class Fading(Parrot):
    """Answers right in the first validation and not at all afterwards."""

    passes = 0

    def on_validation_epoch_start(self) -> None:
        self.passes += 1

    def _answer(self, batch: Any) -> dict[str, Any]:
        if self.passes > 1:
            for sample in batch.samples:
                sample.fields["says"] = "???"
        return super()._answer(batch)


def test_last_is_kept_although_the_first_was_best(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint()
    run = fit(tmp_path / "run", Fading(), checkpoint)
    steps = {n: torch.load(tmp_path / f"run/checkpoints/{n}.ckpt")["global_step"] for n in ("best", "last")}
    assert steps == {"best": run.global_step // 2, "last": run.global_step}


def test_adapter_folders_follow_the_checkpoints(tmp_path: Path) -> None:
    fit(tmp_path / "run", Fading(), RunCheckpoint())
    state = {n: torch.load(tmp_path / f"run/checkpoints/{n}.ckpt")["state_dict"] for n in ("best", "last")}
    for name, folder in (("last", "adapter"), ("best", "adapter/best")):
        written = float((tmp_path / "run" / folder / "adapter.json").read_text())
        assert written == pytest.approx(state[name]["weight"].item())


def test_unlogged_monitor_is_named_once_with_what_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(tmp_path / "run", Parrot(), RunCheckpoint(monitor="val/naming/c/accuracy"))
    told = [r.getMessage() for r in caplog.records if "No best checkpoint" in r.getMessage()]
    assert len(told) == 1
    assert "val/naming/a/accuracy" in told[0]


class Interrupting(Parrot):
    """Is interrupted from the keyboard in its third training step.

    Args:
        times: How often Ctrl-C is pressed.
    """

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 2:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Give Ctrl-C back after a run that was interrupted, from when on Lightning ignores it."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_ends_the_step_saves_and_prints_how_to_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"),
        pytest.raises(SystemExit),
    ):
        fit(tmp_path / "run", Interrupting(), RunCheckpoint())
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last)["global_step"] == 3
    said = next(r.getMessage() for r in caplog.records if "Resume with" in r.getMessage())
    assert f"python cli.py fit --config {tmp_path / 'run/config.yaml'} --ckpt_path {last}" in said


@pytest.mark.usefixtures("keyboard")
def test_second_ctrl_c_stops_at_once_and_never_saves_half_a_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"),
        pytest.raises(SystemExit),
    ):
        fit(tmp_path / "run", Interrupting(times=2), RunCheckpoint(every_n_steps=1))
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 2
    assert any("last.ckpt is of step 2. Resume with" in r.getMessage() for r in caplog.records)


def test_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    fit(tmp_path / "run", Fading(), RunCheckpoint())
    again = RunCheckpoint()
    callbacks = [again, Evaluator(print_table=False)]
    run = quiet_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=2)
    run.fit(Parrot(), datamodule=Rows(splits()), ckpt_path=tmp_path / "run/checkpoints/last.ckpt")
    assert again.best_score == pytest.approx((1 / 3 + 1) / 2)


def test_run_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path / "demo/version_0", Parrot(), RunCheckpoint())
    (tmp_path / "demo/version_0/config.yaml").write_text("")
    last = tmp_path / "demo/version_0/checkpoints/last.ckpt"
    assert find_checkpoint(tmp_path / "demo/version_0") == last
    assert find_checkpoint(tmp_path / "demo") == last
    assert find_run(last) == tmp_path / "demo/version_0"


def test_adapter_folder_means_itself(tmp_path: Path) -> None:
    (tmp_path / "adapter.json").write_text("{}")
    assert find_checkpoint(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("name", "text"), [("", "looked for checkpoints/last.ckpt"), ("gone", "does not exist")]
)
def test_folder_without_checkpoint_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(FileNotFoundError, match=text):
        find_checkpoint(tmp_path / name)


def test_tensorboard_gets_mixture_and_gradient_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        TensorBoardLogger, "log_metrics", lambda self, metrics, step=None: logged.update(metrics)
    )
    fit(tmp_path / "run", Parrot(), RunCheckpoint(), limit_train_batches=1, max_epochs=1)
    # The first batch holds two samples of a, and the gradient of (w - 1)^2 at 0 is -2.
    assert logged["train/naming/a/drawn_share"] == 1
    assert logged["train/grad_norm"] == pytest.approx(2)
    assert logged["train/padding_share"] == 0


def test_a_new_run_never_replaces_the_checkpoint_of_another(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint()
    first = fit(tmp_path / "run", Parrot(), checkpoint)
    last = tmp_path / "run/checkpoints/last.ckpt"
    saved = last.read_bytes()
    with pytest.raises(CheckpointError, match=r"last\.ckpt was saved by another run, which this run would"):
        fit(tmp_path / "run", Parrot(), RunCheckpoint())
    assert last.read_bytes() == saved
    first.fit_loop.max_epochs = 3
    first.fit(first.lightning_module, datamodule=Rows(splits()))  # the same run goes on
    assert torch.load(last)["global_step"] == first.global_step
