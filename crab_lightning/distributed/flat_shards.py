"""Weights spread over processes by FSDP1: a layer's as flat tensors, of which each process holds a share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy

from crab_lightning.distributed.local_shards import layers, mark_whole_shape

Fill = Callable[[nn.Module], None]


def flatten_layers(model: nn.Module, fill: Fill, *, reshard_after_forward: bool, **options: Any) -> None:
    """Put the layers of a model into units that are gathered one by one.

    Args:
        model: The model, adapters inserted; its layers are replaced by what wraps them.
        fill: Reads the weights of a layer that has none yet, just before it is shared out.
        reshard_after_forward: Let go of a layer's weights after its forward; else they stay until backward.
        options: Of ``FullyShardedDataParallel``.
    """
    kept = ShardingStrategy.FULL_SHARD if reshard_after_forward else ShardingStrategy.SHARD_GRAD_OP
    for stack, place in layers(model):
        fill(stack[place])
        stack[place] = flatten(stack[place], sharding_strategy=kept, **options)


def flatten(module: nn.Module, **options: Any) -> nn.Module:
    """Return a module whose weights, but for those that are in units already, are shared out.

    A flat tensor has one type and is trained or frozen, so each kind of weight has its own: of a layer with
    adapters the base and the adapters. They are gathered at the same moments. (Frozen weights in the tensor
    of trained ones would have gradients reserved and reduced; a unit for each adapted projection would be
    14 gatherings a layer.)

    Args:
        module: Is wrapped once for each kind.
        options: Of ``FullyShardedDataParallel``.
    """
    weights = [p for p in module.parameters() if mark_whole_shape(p)]
    kinds = dict.fromkeys((p.requires_grad, p.dtype) for p in weights)
    for trained, dtype in sorted(kinds, key=str):
        own = {id(p) for p in weights if (p.requires_grad, p.dtype) == (trained, dtype)}
        with _only(module, own):
            wrapped = FSDP(module, use_orig_params=True, **options)
        module = wrapped
    return module


@contextmanager
def _only(module: nn.Module, chosen: set[int]) -> Iterator[None]:
    """Hide all other weights of a module: FSDP takes, and moves, whatever it finds."""
    owners = [(owner, dict(owner._parameters)) for owner in module.modules()]
    for owner, held in owners:
        owner._parameters = {name: p for name, p in held.items() if p is None or id(p) in chosen}
    try:
        yield
    finally:
        for owner, held in owners:
            owner._parameters = held


@contextmanager
def trained_weights(root: nn.Module) -> Iterator[None]:
    """Let the first process have the trained weights whole, in host memory; all processes have to call it.

    Args:
        root: The outermost unit.
    """
    with ExitStack() as stack:
        for unit in trained_units(root):
            stack.enter_context(gathered(unit, first_only=True))
        yield


def trained_units(root: nn.Module) -> list[FSDP]:
    """Return the units that hold trained weights."""
    return [unit for unit in FSDP.fsdp_modules(root) if any(flat.requires_grad for flat in unit.params)]


def gathered(unit: FSDP, *, first_only: bool = False) -> AbstractContextManager[None]:
    """Return a context in which a unit's own weights are whole; what is written to them stays.

    Args:
        unit: One of those that ``flatten`` has made.
        first_only: On the first process alone, in host memory, to be read only.
    """
    shared = unit.sharding_strategy != ShardingStrategy.NO_SHARD  # what one process has is whole
    assert unit.compute_device is not None  # known since the unit was made
    # FSDP frees what it has moved: on a CPU that is the very memory that is to be read.
    moves = first_only and shared and unit.compute_device.type != "cpu"
    return FSDP.summon_full_params(
        unit,
        recurse=False,
        writeback=not first_only,
        rank0_only=first_only,
        offload_to_cpu=moves,
    )
