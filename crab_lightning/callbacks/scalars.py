"""Training scalars beside the model's own: mixture drawn, padding, gradient norm, memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from crab_lightning.structures import Batch


class TrainScalars(Callback):
    """Logs what was drawn and computed since the last logged step, every ``trainer.log_every_n_steps`` steps.

    The model logs losses, learning rate and speed; this adds what it does not know. Between logged steps it
    counts on the CPU and keeps sums on the device, so nothing waits for the accelerator. Values go to the
    loggers directly and describe the first process: ``train/mixture/<dataset>`` (share of the samples drawn),
    ``train/padding_share``, ``train/grad_norm`` (before clipping) and ``train/memory_gib`` (peak, on a GPU).
    """

    def __init__(self) -> None:
        self._drawn: Counter[str] = Counter()
        self._tokens: list[Tensor] = []
        self._slots = 0
        self._grad_norm: Tensor | None = None
        self._logged = 0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradient norm on steps that will be logged; it reads every gradient once."""
        if trainer.loggers and (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            grads = [
                p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            norm = torch.nn.utils.get_total_norm(grads) if grads else None
            self._grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and log when it is time."""
        if not trainer.loggers:
            return
        self._drawn.update(sample.dataset for sample in batch.samples)
        mask = batch.inputs.get("attention_mask")
        if mask is not None:
            self._tokens.append(mask.sum())
            self._slots += mask.numel()
        step = trainer.global_step
        # Accumulation keeps global_step for several batches; log once.
        if step and step % trainer.log_every_n_steps == 0 and step != self._logged:
            self._log(trainer, step)

    def _log(self, trainer: Trainer, step: int) -> None:
        drawn = self._drawn.total()
        values = {f"train/mixture/{name}": count / drawn for name, count in sorted(self._drawn.items())}
        if self._tokens:
            values["train/padding_share"] = 1 - float(torch.stack(self._tokens).sum()) / self._slots
        if self._grad_norm is not None:
            values["train/grad_norm"] = float(self._grad_norm)
        if trainer.strategy.root_device.type == "cuda":
            values["train/memory_gib"] = torch.cuda.max_memory_allocated(trainer.strategy.root_device) / 2**30
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        self._drawn.clear()
        self._tokens.clear()
        self._slots, self._grad_norm, self._logged = 0, None, step
