"""Weights spread over processes (FSDP2), a layer at a time."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from crab_lightning.models.strategies import Fsdp2Strategy


def shard_layers(
    model: nn.Module, mesh: Any, *, offload: bool = False, reshard_after_forward: bool = True
) -> int:
    """Give each process its share of every weight; a layer's weights are gathered while it runs.

    Repeated layers (of the language model and of the frozen towers alike) are gathered one by one; what is
    left over (embeddings, head) stays gathered between forward and backward.

    Args:
        model: The model, adapters inserted. A frozen bfloat16 base and float32 adapters may share a layer.
        mesh: Device mesh of the data-parallel processes; of two dimensions, weights are copied along the
            first and sharded along the second.
        offload: Keep the shares, gradients and optimizer state in host memory.
        reshard_after_forward: Let go of a layer's weights after its forward; else they stay until backward,
            which saves a third of the traffic.

    Returns:
        Number of layers that are gathered one by one.
    """
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    # Layers are what transformers recomputes one by one: every stack is a list of them.
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack if any(True for _ in layer.parameters())]
    for layer in layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy, reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    return len(layers)


def shard(model: nn.Module, trainer: Any) -> None:
    """Shard a model as the trainer's strategy says; leave it whole under any other strategy."""
    strategy = None if trainer is None else trainer.strategy
    if isinstance(strategy, Fsdp2Strategy):
        shard_layers(
            model,
            strategy.shard_mesh,
            offload=strategy.cpu_offload,
            reshard_after_forward=strategy.reshard_after_forward,
        )
    elif isinstance(strategy, ModelParallelStrategy):
        shard_layers(model, strategy.device_mesh["data_parallel"])


def shards_at_load(trainer: Any) -> bool:
    """Tell whether several processes share the weights, so that none has to read them all."""
    return trainer is not None and trainer.world_size > 1 and isinstance(trainer.strategy, Fsdp2Strategy)


def shard_device(trainer: Any) -> torch.device:
    """Return where the shares of the weights lie."""
    strategy = trainer.strategy
    return torch.device("cpu") if strategy.cpu_offload else torch.device(strategy.root_device)


def check_strategy(trainer: Any) -> None:
    """Refuse strategies that would train or save something else than is asked for.

    Raises:
        ValueError: Under FSDP1 (Lightning's ``fsdp``).
    """
    strategy = None if trainer is None else trainer.strategy
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "trainer.strategy is FSDP1, which flattens a layer's weights into one of a single type: a "
            "bfloat16 base and float32 adapters do not fit into it, nor does clipping by norm. "
            "Use trainer.strategy fsdp2 (fsdp2_offload for weights in host memory): it shards the same layers"
        )
