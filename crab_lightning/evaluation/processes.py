"""What the processes of a test exchange."""

from __future__ import annotations

import torch
import torch.distributed
from lightning.pytorch import Trainer


def needs_device() -> bool:
    """Return whether metric states must move to the accelerator: NCCL exchanges no CPU tensors."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "nccl"


def sum_over_processes(
    trainer: Trainer, rows: list[list[float]], count: int
) -> tuple[list[list[float]], float]:
    """Add up sums and a count over processes; float64, so that counts stay exact."""
    flat = torch.tensor([*(v for row in rows for v in row), count], dtype=torch.float64)
    if trainer.world_size > 1:
        flat = flat.to(trainer.strategy.root_device)
        torch.distributed.all_reduce(flat)
    values = flat.tolist()
    width = len(rows[0]) if rows else 0
    return [values[i : i + width] for i in range(0, len(values) - 1, width)] if width else [], values[-1]
