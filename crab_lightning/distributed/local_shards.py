"""This process's share of a tensor that several processes hold together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def layers(model: nn.Module) -> list[tuple[nn.ModuleList, int]]:
    """Return where the layers stand that are gathered one by one; stacks inside a layer belong to it.

    They are what transformers recomputes one by one: every stack is a list of them.
    """
    found: list[tuple[nn.ModuleList, int]] = []
    inside: set[int] = set()  # stacks inside a layer that is found already: an outer stack comes first
    for stack in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        if id(stack) in inside:
            continue
        for place, layer in enumerate(stack):
            inside |= {id(part) for part in layer.modules()}
            if any(True for _ in layer.parameters()):
                found.append((stack, place))
    return found


def mark_whole_shape(weight: nn.Parameter) -> bool:
    """Keep the shape of a weight of which FSDP1 will leave a flat share; tell whether that was new."""
    new = not hasattr(weight, "whole_shape")
    if new:
        weight.whole_shape = weight.shape  # type: ignore[attr-defined]
    return new


def whole_shape(weight: Tensor) -> torch.Size:
    """Return the shape of a weight that may lie on several processes."""
    shape: torch.Size = getattr(weight, "whole_shape", weight.shape)
    return shape


@torch.no_grad()
def copy_share(target: Tensor, stored: Any, corner: Sequence[int] | None = None) -> None:
    """Copy this process's share of a whole tensor, or of a block of it; no other process takes part.

    Args:
        target: What is copied to: a tensor, or one that is sharded.
        stored: What is copied from: a slice of a safetensors file, which is read part by part.
        corner: Where the first value of ``stored`` stands in ``target``, if it is only a block of it: an
            index for each dimension of ``target``. Dimensions that ``stored`` lacks at its front have length
            1.
    """
    sizes = stored.get_shape()
    lacking = target.ndim - len(sizes)
    sizes = [1] * lacking + sizes
    corner = [0] * target.ndim if corner is None else corner
    own, shape, offset = target, tuple(target.shape), (0,) * target.ndim
    if isinstance(target, DTensor):
        own, mesh, placed = target.to_local(), target.device_mesh, target.placements
        shape, offset = compute_local_shape_and_global_offset(target.shape, mesh, placed)
    # what the block and this process's share have in common, counted from the front of the whole tensor
    first = [max(o, c) for o, c in zip(offset, corner, strict=True)]
    last = [min(o + n, c + s) for o, n, c, s in zip(offset, shape, corner, sizes, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return  # nothing: fewer rows than processes leave some without
    here = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, offset, strict=True))
    there = tuple(slice(a - c, b - c) for a, b, c in zip(first, last, corner, strict=True))
    own[here].copy_(stored[there[lacking:]])
