"""Helpers for sharded tensors, of which each process holds a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def layers(model: nn.Module) -> list[tuple[nn.ModuleList, int]]:
    """Return the layers that are gathered one by one: the entries of every outermost ``nn.ModuleList``.

    Returns:
        The list and the index of each layer. Layers without parameters are left out.
    """
    found: list[tuple[nn.ModuleList, int]] = []
    inside: set[int] = set()  # parts of layers that were found; an outer list comes before the lists inside
    for stack in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        if id(stack) in inside:
            continue
        for place, layer in enumerate(stack):
            inside |= {id(part) for part in layer.modules()}
            if any(True for _ in layer.parameters()):
                found.append((stack, place))
    return found


def mark_whole_shape(weight: nn.Parameter) -> bool:
    """Store the shape of a weight before FSDP1 flattens it; return False if it was stored before."""
    new = not hasattr(weight, "whole_shape")
    if new:
        weight.whole_shape = weight.shape  # type: ignore[attr-defined]
    return new


def whole_shape(weight: Tensor) -> torch.Size:
    """Return the shape of a whole weight, also if it is sharded."""
    shape: torch.Size = getattr(weight, "whole_shape", weight.shape)
    return shape


@torch.no_grad()
def copy_share(target: Tensor, stored: Any, corner: Sequence[int] | None = None) -> None:
    """Copy a stored tensor to this process's part of a tensor; other processes need not call this function.

    Args:
        target: The tensor to fill, which may be sharded.
        stored: A slice of a safetensors file; only the needed part is read.
        corner: If ``stored`` is only a block of ``target``: the index of its first value in ``target``, one
            number for each dimension. Missing first dimensions of ``stored`` count as dimensions of length 1.
    """
    sizes = stored.get_shape()
    lacking = target.ndim - len(sizes)
    sizes = [1] * lacking + sizes
    corner = [0] * target.ndim if corner is None else corner
    own, shape, offset = target, tuple(target.shape), (0,) * target.ndim
    if isinstance(target, DTensor):
        own, mesh, placed = target.to_local(), target.device_mesh, target.placements
        shape, offset = compute_local_shape_and_global_offset(target.shape, mesh, placed)
    # the part that the block and this process's part have in common, as indices in the whole tensor
    first = [max(o, c) for o, c in zip(offset, corner, strict=True)]
    last = [min(o + n, c + s) for o, n, c, s in zip(offset, shape, corner, sizes, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return  # this process has no part of the block
    here = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, offset, strict=True))
    there = tuple(slice(a - c, b - c) for a, b, c in zip(first, last, corner, strict=True))
    own[here].copy_(stored[there[lacking:]])
