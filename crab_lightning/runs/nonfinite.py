"""Stops a training at the first loss or gradient that is not finite, before a weight changes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from crab_lightning.distributed.sharding import gradient_norm
from crab_lightning.structures import Batch


class NonFiniteError(ValueError):
    """A loss or gradient norm is not finite. The message names the step, the datasets and the samples."""


class NonFiniteSteps(Callback):
    """Checks before every optimizer step that loss and gradient norm are finite.

    All processes make the same decision. The weights stay those of the step before, and no later checkpoint
    or metric replaces those on disk. With ``16-mixed``, only the loss is checked, because gradients may
    overflow and the gradient scaler handles this.

    Args:
        skip: How many steps may be left out because their loss or gradient is not finite. One more such step
            ends the run.
    """

    def __init__(self, skip: int = 0) -> None:
        if skip < 0:
            raise ValueError(f"nonfinite.skip is {skip}; it must be at least 0")
        self.skip = skip
        self.skipped = 0
        self._seen: list[tuple[list[tuple[str, str]], Tensor]] = []
        self._samples: list[tuple[str, str]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Store the datasets and names of the samples in the batch."""
        self._samples = [(s.dataset, s.id) for s in batch.samples] if isinstance(batch, Batch) else []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Store the loss on its device, without waiting for its value."""
        self._seen.append((self._samples, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Stop the run or drop the gradients if the loss or the gradient norm of this step is not finite.

        Raises:
            NonFiniteError: If one is not finite, and no further step may be left out.
        """
        seen, self._seen = self._seen, []
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad = torch.stack([~torch.isfinite(loss).all() for _, loss in seen]).any()
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if weights and not scaled:
            gradients: list[Any] = [p.grad for p in weights]
            bad = bad | ~torch.isfinite(gradient_norm(gradients, trainer)).to(bad.device)
        flag = bad.to(torch.float32)
        if dist.is_available() and dist.is_initialized() and trainer.world_size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        if not flag.item():
            return
        said = self._said(trainer, seen)
        if self.skipped >= self.skip:
            raise NonFiniteError(
                f"{said}. The weights from before this step are kept. Lower the learning rate or check these "
                f"samples. With --nonfinite.skip N, up to N such steps are left out ({self.skipped} so far)"
            )
        self.skipped += 1
        for weight in weights:
            weight.grad = None
        rank_zero_info(f"{said}; this step is left out, {self.skipped} of at most {self.skip}.")

    @staticmethod
    def _said(trainer: Trainer, seen: list[tuple[list[tuple[str, str]], Tensor]]) -> str:
        wrong = [samples for samples, loss in seen if not torch.isfinite(loss).all()]
        what = "loss" if wrong else "gradient norm"
        found = [pair for samples in wrong or [samples for samples, _ in seen] for pair in samples]
        shares: list[Any] = [(bool(wrong), found)]
        if dist.is_available() and dist.is_initialized() and trainer.world_size > 1:
            shares = shares * trainer.world_size
            dist.all_gather_object(shares, (bool(wrong), found))
            if any(own for own, _ in shares):
                what = "loss"
                shares = [share for share in shares if share[0]]
        names = [f"{dataset} {sample}" for _, pairs in shares for dataset, sample in pairs]
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return f"step {trainer.global_step + 1:,}: the {what} is not finite; samples: {listed}"

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps were left out."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of steps that were left out."""
        self.skipped = state_dict["skipped"]
