"""Sharding with FSDP1: the weights of a layer become flat tensors, and each process holds a part of them."""

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
    """Wrap the layers of a model in FSDP1 units, whose weights are gathered one unit at a time.

    Args:
        model: The model with its adapters; its layers are replaced by the wrapped layers.
        fill: Function that reads the weights of a layer without storage; called before the layer is wrapped.
        reshard_after_forward: Free the gathered weights of a layer after its forward pass; otherwise they
            stay until the backward pass.
        options: Options of ``FullyShardedDataParallel``.
    """
    kept = ShardingStrategy.FULL_SHARD if reshard_after_forward else ShardingStrategy.SHARD_GRAD_OP
    for stack, place in layers(model):
        fill(stack[place])
        stack[place] = flatten(stack[place], sharding_strategy=kept, **options)


def flatten(module: nn.Module, **options: Any) -> nn.Module:
    """Return a module in which all weights that are not yet in a unit are sharded.

    All weights of a flat tensor have the same type and are either trained or frozen. So there is one unit for
    each kind of weight: in a layer with adapters one for the base and one for the adapters. They are gathered
    together. (Frozen weights in one tensor with trained weights would need memory for gradients. A unit for
    each adapted projection would mean 14 gatherings for each layer.)

    Args:
        module: The module; it is wrapped once for each kind of weight.
        options: Options of ``FullyShardedDataParallel``.
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
    """Hide all other weights of a module while the context is open, because FSDP takes all that it finds."""
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
    """Gather the trained weights on the first process, in host memory, while the context is open.

    All processes have to enter the context.

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
    """Return a context in which the weights of a unit are gathered; changes of them are kept.

    Args:
        unit: A unit that ``flatten`` made.
        first_only: Gather only on the first process, in host memory; changes are then not kept.
    """
    shared = unit.sharding_strategy != ShardingStrategy.NO_SHARD  # with one process nothing is sharded
    assert unit.compute_device is not None  # set when the unit was made
    # FSDP frees weights after it has moved them; on a CPU this would free the memory that is read here.
    moves = first_only and shared and unit.compute_device.type != "cpu"
    return FSDP.summon_full_params(
        unit,
        recurse=False,
        writeback=not first_only,
        rank0_only=first_only,
        offload_to_cpu=moves,
    )
