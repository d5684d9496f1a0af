"""The lines that a run prints without a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from crab_lightning.dashboards import progress
from crab_lightning.dashboards.progress import RunProgress


class SavedHalfway(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "half.ckpt")


def fit(folder: Path, resumed: Path | None = None) -> None:
    Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[RunProgress(), SavedHalfway()],
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=0,
        default_root_dir=folder,
    ).fit(BoringModel(), ckpt_path=resumed, weights_only=False)


def test_every_step_names_its_epoch_also_after_a_resume_within_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    fit(tmp_path)
    capsys.readouterr()
    fit(tmp_path, tmp_path / "half.ckpt")
    lines = [line for line in capsys.readouterr().out.splitlines() if "samples/s" in line]
    assert [line.split("  ")[0] for line in lines] == [
        *(f"epoch 1/2: {step}/4" for step in (3, 4)),
        *(f"epoch 2/2: {step}/4" for step in (1, 2, 3, 4)),
    ]
    assert all("loss " in line and " 0.00 samples/s" not in line for line in lines)
