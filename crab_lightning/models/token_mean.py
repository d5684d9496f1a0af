"""An optimizer step: its loss, the mean over all its target tokens, and its learning rate.

Averaging the means of micro-batches gives a token of a small batch more weight than one of a large batch, so
that gradient accumulation, the number of processes and the shape of batches would all change the gradient.
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
    """Weighs micro-batches so that an optimizer step follows the mean loss of all its target tokens.

    The number of tokens of a step is known only at its last micro-batch. So each one is divided by the tokens
    of the first, of all processes together, and the summed gradient is corrected once before the step;
    without accumulation there is nothing to correct. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._seen: Tensor | None = None

    def loss(self, loss_sum: Tensor, target_tokens: Tensor, processes: int, accumulate: int) -> Tensor:
        """Return what a micro-batch is to be backpropagated from.

        Args:
            loss_sum: Summed loss of the samples ``(B,)``.
            target_tokens: Their numbers of target tokens ``(B,)``.
            processes: Processes whose gradients are averaged.
            accumulate: Micro-batches of a step; the trainer divides each loss by it.
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
        """Turn the gradients of the step's micro-batches into that of the mean over all their tokens.

        Args:
            parameters: Those that are trained.
            accumulate: What the trainer divided each loss by.
        """
        first, seen = self._first, self._seen
        self._first = self._seen = None
        if first is None or seen is None:
            return
        grads: list[Any] = [p.grad for p in parameters if p.grad is not None]
        # A shard's own part: every process multiplies by the same number.
        local = [g.to_local() if hasattr(g, "to_local") else g for g in grads]
        by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for grad in local:
            by_type.setdefault((grad.dtype, grad.device), []).append(grad)
        factor = accumulate * first / seen.clamp(min=1)
        for (_, device), group in by_type.items():
            torch._foreach_mul_(group, factor.to(device))


def cosine_with_warmup(optimizer: Optimizer, total_steps: int, warmup_share: float) -> LambdaLR:
    """Return a schedule to be stepped after every optimizer step.

    The first step already has a rate above zero, the last one a rate just above it: no step is wasted.

    Args:
        optimizer: Its rates are the peak of the schedule.
        total_steps: Optimizer steps of the whole run.
        warmup_share: Share of them spent warming up, in [0, 1).
    """
    warmup = math.ceil(warmup_share * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def total_optimizer_steps(trainer: Any) -> int:
    """Return how many optimizer steps the run will take.

    Raises:
        ValueError: If the run has no end in steps: Lightning then answers infinity (or, with an iterable data
            set, an error deep inside), and a cosine over it never falls.
    """
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps) or steps < 1:
        raise ValueError(
            f"the learning-rate schedule needs the number of steps, and the trainer gives {steps}. "
            "Set trainer.max_steps, or trainer.max_epochs with data of known length."
        )
    return int(steps)
