"""Weights spread over processes (FSDP2), a layer at a time."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard


def shard_layers(model: nn.Module, mesh: Any) -> int:
    """Give each process its share of every weight; a layer's weights are gathered while it runs.

    Repeated layers (of the language model and of the frozen towers alike) are gathered one by one; what is
    left over (embeddings, head) stays gathered between forward and backward.

    Args:
        model: The model, adapters inserted. A frozen bfloat16 base and float32 adapters may share a layer.
        mesh: One-dimensional device mesh of the data-parallel processes.

    Returns:
        Number of layers that are gathered one by one.
    """
    # Layers are what transformers recomputes one by one: every stack is a list of them.
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack if any(True for _ in layer.parameters())]
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return len(layers)
