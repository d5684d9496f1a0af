"""Weights spread over processes, a layer at a time."""

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
    found = [stack[place] for stack, place in layers(model)]
    for layer in found:
        fully_shard(layer, mesh=mesh, offload_policy=policy, reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    return len(found)


def shard(model: nn.Module, trainer: Any, fill: Fill) -> None:
    """Shard a model as the trainer's strategy says; leave it whole under any other strategy.

    Args:
        model: The model, adapters inserted.
        trainer: Whose strategy decides.
        fill: Reads the weights of a part of the model that ``load_base`` has left without storage.
    """
    strategy = None if trainer is None else trainer.strategy
    match strategy:
        case Fsdp1Strategy():  # a part has to have its weights before they are laid side by side
            keep = strategy.reshard_after_forward
            flatten_layers(model, fill, reshard_after_forward=keep, **strategy.unit_options())
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
    """Tell whether several processes share the weights, so that none has to read them all."""
    return trainer is not None and trainer.world_size > 1 and isinstance(trainer.strategy, ShardedStrategy)


def shard_device(trainer: Any) -> torch.device:
    """Return where the shares of the weights lie."""
    strategy = trainer.strategy
    return torch.device("cpu") if strategy.cpu_offload else torch.device(strategy.root_device)


def gradient_norm(gradients: list[Tensor], trainer: Any) -> Tensor:
    """Return the norm of all gradients together; under a sharded strategy all processes have to call it."""
    if isinstance(trainer.strategy, Fsdp1Strategy):
        return trainer.strategy.gradient_norm(gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def readable_weights(trainer: Any) -> AbstractContextManager[None]:
    """Return a context in which each trained weight is a whole tensor on rank 0, or one that can be gathered.

    Under FSDP1 it is neither. All processes have to enter it.
    """
    strategy = None if trainer is None else trainer.strategy
    return strategy.trained_weights() if isinstance(strategy, Fsdp1Strategy) else nullcontext()


def check_strategy(trainer: Any) -> None:
    """Refuse strategies that would train or save something else than is asked for.

    Raises:
        ValueError: Under Lightning's own FSDP1.
    """
    strategy = None if trainer is None else trainer.strategy
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "trainer.strategy is Lightning's fsdp (FSDPStrategy), which puts the bfloat16 base and the "
            "float32 adapters of a layer into one tensor of one type, and does not clip by norm. Use "
            "trainer.strategy fsdp1, which keeps them apart, or fsdp2"
        )
