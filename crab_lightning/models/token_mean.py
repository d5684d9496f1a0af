"""The loss of an optimizer step, which is the mean over all its target tokens, and the learning rate.

The mean of the means of micro-batches would give a token of a small micro-batch more weight than a token of a
large one. Then gradient accumulation, the number of processes and the batch size would change the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class TokenMean:
    """Weights micro-batches so that an optimizer step uses the mean loss of all its target tokens.

    The number of tokens of a step is known only at its last micro-batch. So each loss is divided by the
    number of tokens of the first micro-batch, of all processes together, and the gradient is corrected once
    before the step. Without accumulation no correction is needed. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._seen: Tensor | None = None

    def loss(self, loss_sum: Tensor, target_tokens: Tensor, processes: int, accumulate: int) -> Tensor:
        """Return the loss of a micro-batch for the backward pass.

        Args:
            loss_sum: Summed loss of each sample ``(B,)``.
            target_tokens: Number of target tokens of each sample ``(B,)``.
            processes: Number of processes whose gradients are averaged.
            accumulate: Number of micro-batches of a step, by which the trainer divides each loss.
        """
        tokens = target_tokens.sum().to(torch.float32)
        if processes > 1:
            distributed.all_reduce(tokens)
        first = tokens.clamp(min=1)
        if accumulate > 1:
            self._first = first if self._first is None else self._first
            self._seen = tokens if self._seen is None else self._seen + tokens
            first = self._first
        return loss_sum.sum() * (processes / first)

    def correct(self, parameters: Iterable[nn.Parameter], accumulate: int) -> None:
        """Scale the gradients, so that they are those of the mean loss over all tokens of the step.

        Args:
            parameters: The trained parameters.
            accumulate: Number of micro-batches of a step, by which the trainer divided each loss.
        """
        first, seen = self._first, self._seen
        self._first = self._seen = None
        if first is None or seen is None:
            return
        grads: list[Any] = [p.grad for p in parameters if p.grad is not None]
        # Each process scales its part of a sharded gradient by the same number.
        local = [g.to_local() if hasattr(g, "to_local") else g for g in grads]
        by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for grad in local:
            by_type.setdefault((grad.dtype, grad.device), []).append(grad)
        factor = accumulate * first / seen.clamp(min=1)
        for (_, device), group in by_type.items():
            torch._foreach_mul_(group, factor.to(device))


def cosine_with_warmup(optimizer: Optimizer, total_steps: int, warmup_share: float) -> LambdaLR:
    """Return a learning-rate schedule, of which ``step`` is called after every optimizer step.

    The learning rate is above zero in the first step and in the last step.

    Args:
        optimizer: The optimizer; its learning rates are the largest rates of the schedule.
        total_steps: Number of optimizer steps of the whole run.
        warmup_share: Fraction of the steps in which the rate rises, in [0, 1).
    """
    warmup = math.ceil(warmup_share * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def total_optimizer_steps(trainer: Any) -> int:
    """Return the number of optimizer steps of the run.

    Raises:
        ValueError: If the number of steps is not known, so that the cosine has no end.
    """
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps) or steps < 1:
        raise ValueError(
            f"the learning-rate schedule needs the number of steps, but the trainer returns {steps}. "
            "Set trainer.max_steps, or trainer.max_epochs with data of known length."
        )
    return int(steps)
