from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.runs import RunCheckpoint
from crab_lightning.runs.nonfinite import NonFiniteError, NonFiniteSteps
from tests.evaluation.fakes import Parrot, Rows
from tests.evaluation.test_evaluator import splits
from tests.quiet import quiet_trainer


class Broken(Parrot):
    """Has a loss that is not a number in its second step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.trainer.global_step == 1 else loss


def fit(folder: Path, skip: int) -> Broken:
    model = Broken()
    quiet_trainer(
        folder,
        enable_checkpointing=True,
        callbacks=[NonFiniteSteps(skip), RunCheckpoint(monitor=None, every_n_steps=1)],
        max_epochs=2,
        limit_val_batches=0,
    ).fit(model, datamodule=Rows(splits()))
    return model


def test_first_non_finite_loss_stops_before_it_reaches_a_weight(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"step 2: the loss is not finite; samples: \w+ \w+/train/\d"):
        fit(tmp_path, 0)
    kept = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 1
    assert torch.isfinite(kept["state_dict"]["weight"]).all()


def test_bounded_number_of_steps_may_be_left_out(tmp_path: Path) -> None:
    assert torch.isfinite(fit(tmp_path, 1).weight).all()
