"""The training loop that all stages of the pre-training share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, IterableDataset

Group = tuple[Sequence[tuple[str, nn.Parameter]], float]

# Muon is made for matrices that map hidden states to hidden states. Embeddings and output heads do not.
_NO_MAPS = ("embed_tokens", "lm_head", "look.", "box.", "cell.", "sound.", "clock.")
_REPORTED_STEPS = 50


def train(
    name: str,
    model: nn.Module,
    groups: Sequence[Group],
    loss_of: Callable[[Any, int], Tensor],
    data: IterableDataset[Any],
    *,
    steps: int,
    workers: int = 1,
) -> float:
    """Train a model in place and print the loss every 50 steps.

    Muon trains the matrices between hidden states, and AdamW trains all other parameters. The learning rate
    rises for 100 steps and then falls as a cosine to 2 % of its peak. Gradients are clipped to a norm of 1.

    Args:
        name: The name of the stage in the output.
        model: Its parameters get gradients.
        groups: Named parameters and their peak learning rate. Muon scales its steps to the size of AdamW's.
        loss_of: Returns the loss of a batch; it also gets the number of the step, which starts at 0.
        data: Batches without an end.
        steps: Number of optimizer steps.
        workers: Number of loader processes.

    Returns:
        The mean loss of the last 50 steps.
    """
    maps, others = list[dict[str, Any]](), list[dict[str, Any]]()
    for named, lr in groups:
        matrices = [p for n, p in named if p.ndim == 2 and not any(part in n for part in _NO_MAPS)]
        of_muon = {id(p) for p in matrices}
        maps.append({"params": matrices, "lr": lr})
        others.append({"params": [p for _, p in named if id(p) not in of_muon], "lr": lr})
    optimizers: tuple[optim.Optimizer, ...] = (
        optim.Muon([g for g in maps if g["params"]], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    )

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedules = [optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None)
    model.train()
    losses: list[float] = []
    for step, batch in zip(range(steps), loader, strict=False):
        loss = loss_of(batch, step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % _REPORTED_STEPS == 0:
            recent = sum(losses[-_REPORTED_STEPS:]) / _REPORTED_STEPS
            print(f"{name}: step {step + 1} of {steps}, loss {recent:.3f}", flush=True)
    last = losses[-_REPORTED_STEPS:]
    return sum(last) / len(last)
