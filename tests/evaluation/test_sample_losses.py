"""The losses of validation samples on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from crab_lightning.evaluation.sample_losses import SampleLosses, read_sample_losses
from crab_lightning.structures import Batch, Sample


def batch(*names: str, repeated: list[bool]) -> Batch:
    samples = [Sample(name, name.split("/")[0], "task", "val", "clip") for name in names]
    return Batch({"input_ids": torch.zeros(len(names), 1)}, torch.zeros(len(names), 1), samples, repeated)


def test_every_sample_is_written_once_and_the_last_validation_counts(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        log_dir=str(tmp_path), world_size=1, sanity_checking=False, is_global_zero=True, callbacks=[]
    )
    losses = SampleLosses()
    module: Any = None
    losses.setup(trainer, module, "fit")
    assert read_sample_losses(tmp_path) == {}
    for scale in (9.0, 1.0):
        losses.on_validation_epoch_start(trainer, module)
        outputs = {
            "loss_sum": torch.tensor([2.5, 0.5, 0.5]) * scale,
            "target_tokens": torch.tensor([5, 2, 2]),
        }
        rows = batch("ave/1", "ks/1", "ks/1", repeated=[False, False, True])
        losses.on_validation_batch_end(trainer, module, outputs, rows, 0)
        losses.on_validation_batch_end(trainer, module, {"predictions": []}, rows, 0, 1)
        losses.on_validation_epoch_end(trainer, module)
    assert read_sample_losses(tmp_path) == {"ave": {"ave/1": [2.5, 5]}, "ks": {"ks/1": [0.5, 2]}}
