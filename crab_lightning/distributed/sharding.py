"""Shards the weights of a model over processes, one layer at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from crab_lightning.distributed.flat_shards import Fill, flatten_layers
from crab_lightning.distributed.local_shards import layers
from crab_lightning.distributed.strategies import Fsdp1Strategy, Fsdp2Strategy, ShardedStrategy


def shard_layers(
    model: nn.Module, mesh: Any, *, offload: bool = False, reshard_after_forward: bool = True
) -> None:
    """Shard a model with FSDP2: each process holds a part of every weight, and a layer gathers its weights.

    The layers of the language model and of the frozen towers are gathered one by one, when they run. The
    other weights (embeddings, head) stay gathered between the forward and the backward pass.

    Args:
        model: The model with its adapters. A layer may have a bfloat16 base and float32 adapters.
        mesh: Device mesh of the data-parallel processes. With two dimensions, weights are replicated along
            the first and sharded along the second.
        offload: Keep weights, gradients and optimizer state in host memory.
        reshard_after_forward: Free the gathered weights of a layer after its forward pass; otherwise they
            stay until the backward pass, which saves a third of the communication.
    """
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    for stack, place in layers(model):
        fully_shard(
            stack[place], mesh=mesh, offload_policy=policy, reshard_after_forward=reshard_after_forward
        )
    fully_shard(model, mesh=mesh, offload_policy=policy)


def shard(model: nn.Module, trainer: Any, fill: Fill) -> None:
    """Shard a model if the trainer has a sharded strategy, and read weights without storage.

    Args:
        model: The model with its adapters.
        trainer: The trainer; ``None`` does not shard.
        fill: Function that reads the weights of a part of the model to which ``load_base`` gave no storage.
    """
    strategy = None if trainer is None else trainer.strategy
    match strategy:
        case Fsdp1Strategy():  # a part must have its weights before they are joined into a flat tensor
            keep, device = strategy.reshard_after_forward, strategy.root_device
            flatten_layers(model, fill, reshard_after_forward=keep, device_id=device)
        case Fsdp2Strategy():
            shard_layers(
                model,
                strategy.shard_mesh,
                offload=strategy.cpu_offload,
                reshard_after_forward=strategy.reshard_after_forward,
            )
        case ModelParallelStrategy():
            shard_layers(model, strategy.device_mesh["data_parallel"])
    fill(model)


def shards_at_load(trainer: Any) -> bool:
    """Return whether the weights are sharded over several processes, so that each reads only its part."""
    return trainer is not None and trainer.world_size > 1 and isinstance(trainer.strategy, ShardedStrategy)


def shard_device(trainer: Any) -> torch.device:
    """Return the device of the sharded weights."""
    strategy = trainer.strategy
    return torch.device("cpu") if strategy.cpu_offload else torch.device(strategy.root_device)


def gradient_norm(gradients: list[Tensor], trainer: Any) -> Tensor:
    """Return the norm of all gradients together; with a sharded strategy all processes have to call it."""
    if isinstance(trainer.strategy, Fsdp1Strategy):
        return trainer.strategy.gradient_norm(gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def readable_weights(trainer: Any) -> AbstractContextManager[None]:
    """Return a context in which each trained weight can be read on rank 0, directly or by gathering it.

    Only FSDP1 needs the context. All processes have to enter it.
    """
    strategy = None if trainer is None else trainer.strategy
    return strategy.trained_weights() if isinstance(strategy, Fsdp1Strategy) else nullcontext()


def check_strategy(trainer: Any) -> None:
    """Raise an error for a strategy that would train or save wrong weights.

    Raises:
        ValueError: If the strategy is Lightning's own ``FSDPStrategy``.
    """
    strategy = None if trainer is None else trainer.strategy
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "trainer.strategy is Lightning's fsdp (FSDPStrategy), which joins the bfloat16 base and the "
            "float32 adapters of a layer into one tensor of one type, and does not clip by norm. Use "
            "trainer.strategy fsdp1, which does not join them, or fsdp2"
        )
