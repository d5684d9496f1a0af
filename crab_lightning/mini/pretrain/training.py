"""The training loop that all stages of the pre-training share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, IterableDataset

Group = tuple[Sequence[tuple[str, nn.Parameter]], float]

# Muon is made for matrices that map hidden states to hidden states. Embeddings and output heads do not.
_NO_MAPS = ("embed_tokens", "lm_head", "look.", "box.", "cell.", "sound.", "clock.")
_REPORTED_STEPS = 50


class Muon(optim.Optimizer):
    """Muon in float32, for matrices of equal shape at once.

    It makes the steps of :class:`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, which computes in
    bfloat16, one matrix after another. On a processor without bfloat16 instructions that took 3.7 s for the
    58 matrices of the mini base model with two threads, and this class takes 0.11 s (AMD EPYC, 2026-11-30).

    Args:
        params: Matrices, or groups of them.
        lr: Learning rate; it is scaled to the size of AdamW's steps.
        momentum: Weight of the earlier gradients in their running mean.
        weight_decay: Decoupled weight decay.

    Source: `Jordan and others <https://kellerjordan.github.io/posts/muon/>`_; the scale of the steps is from
    `Liu and others <https://arxiv.org/abs/2502.16982>`_.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every matrix that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                grads = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
                states = [self.state[matrix] for matrix in matrices]
                means = torch.stack([s.get("mean", torch.zeros(shape)) for s in states])
                means.lerp_(grads, 1 - momentum)
                steps = orthogonal(grads.lerp(means, momentum)) * (0.2 * math.sqrt(max(shape)))
                for matrix, state, mean, step in zip(matrices, states, means, steps, strict=True):
                    state["mean"] = mean
                    matrix.mul_(1 - lr * group["weight_decay"]).sub_(step, alpha=lr)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices ``(N, R, C)`` with the same singular vectors and all singular values near 1.

    Five Newton-Schulz iterations bring the singular values to between about 0.7 and 1.2.
    """
    if tall := matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = matrices @ matrices.mT
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        matrices = torch.baddbmm(matrices, factor, matrices, beta=3.4445)
    return matrices.mT if tall else matrices


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
        Muon([g for g in maps if g["params"]], weight_decay=0.01),
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
