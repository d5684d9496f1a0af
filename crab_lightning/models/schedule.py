"""Learning rate: linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


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
