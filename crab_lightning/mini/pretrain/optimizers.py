"""Muon for the matrices between hidden states, AdamW for tables, heads, convolutions and norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

Named = Sequence[tuple[str, nn.Parameter]]

# Tables of words and the layers that read pixels or write words are no maps between hidden states.
_OUTSIDE = ("embed_tokens", "lm_head", "look.", "box.", "cell.", "sound.", "clock.")


class Optimizers:
    """Two optimizers and one schedule: a warm-up of 100 steps, then a cosine down to 2 %.

    Args:
        groups: Named parameters and their peak learning rate, which Muon scales to the size of AdamW's steps.
        steps: Steps of the whole schedule.
    """

    def __init__(self, groups: Sequence[tuple[Named, float]], steps: int) -> None:
        inside, outside = list[dict[str, Any]](), list[dict[str, Any]]()
        for named, lr in groups:
            matrices = [p for n, p in named if p.ndim == 2 and not any(part in n for part in _OUTSIDE)]
            mine = {id(p) for p in matrices}
            inside.append({"params": matrices, "lr": lr})
            outside.append({"params": [p for _, p in named if id(p) not in mine], "lr": lr})
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                [g for g in inside if g["params"]],
                weight_decay=0.01,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(outside, betas=(0.9, 0.98), weight_decay=0.01),
        )

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))

        self.schedules = [torch.optim.lr_scheduler.LambdaLR(part, factor) for part in self.parts]

    def step(self) -> None:
        """Take one step with the gradients that are there, and forget them."""
        for part, schedule in zip(self.parts, self.schedules, strict=True):
            part.step()
            part.zero_grad(set_to_none=True)
            schedule.step()
