"""Writes the loss of every validation sample to a file, so that two runs can be compared by sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer

from crab_lightning.files import read_json, replace_json
from crab_lightning.runs.folder_callback import folder_of
from crab_lightning.structures import Batch

FILE_NAME = "sample_losses.json"


class SampleLosses(Callback):
    """Writes the loss of every validation sample to ``sample_losses.json`` of the run folder.

    The file maps a dataset to ``{sample id: [summed target loss in nats, number of target tokens]}`` of the
    last validation. With few questions, the losses can show a difference between two runs that metrics do not
    show.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, tuple[float, int]]] = {}
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder; every process does this, because it is a collective call."""
        self._folder = folder_of(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete the losses of the previous validation."""
        self._found = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Store the losses of a batch with labels."""
        if not isinstance(outputs, Mapping) or "loss_sum" not in outputs or not isinstance(batch, Batch):
            return
        losses = outputs["loss_sum"].double().tolist()
        tokens = outputs["target_tokens"].tolist()
        for sample, again, loss, count in zip(batch.samples, batch.repeated, losses, tokens, strict=True):
            if not again:
                self._found.setdefault(sample.dataset, {})[sample.id] = (loss, int(count))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the losses of all processes and write them."""
        parts: list[Any] = [self._found]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._found)
        quick = trainer.sanity_checking or getattr(trainer, "fast_dev_run", False)
        if quick or not trainer.is_global_zero:
            return
        merged: dict[str, dict[str, tuple[float, int]]] = {}
        for part in parts:
            for dataset, found in part.items():
                merged.setdefault(dataset, {}).update(found)
        content = {name: dict(sorted(merged[name].items())) for name in sorted(merged)}
        replace_json(self._folder / FILE_NAME, content, indent=0)


def read_sample_losses(folder: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """Return the losses that :class:`SampleLosses` wrote, by dataset and sample id; empty without a file.

    Args:
        folder: The run folder.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    remedy = "Remove it; the next validation of the run writes it again"
    content: dict[str, dict[str, tuple[float, int]]] = read_json(path, remedy)
    return content
