"""This process's share of a tensor that several processes hold together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def layers(model: nn.Module) -> list[tuple[nn.ModuleList, int]]:
    """Return where the layers stand that are gathered one by one, outer ones before their own layers.

    They are what transformers recomputes one by one: every stack is a list of them.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [
        (stack, place)
        for stack in stacks
        for place, layer in enumerate(stack)
        if any(True for _ in layer.parameters())
    ]


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
def copy_share(target: Tensor, whole: Any) -> None:
    """Copy this process's share of a whole tensor; no other process takes part.

    Args:
        target: What is copied to: a tensor, or one that is sharded.
        whole: A tensor of the same whole shape, or anything that gives parts of one by slices.
    """
    if not isinstance(target, DTensor):
        target.copy_(whole[:])
        return
    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    own = target.to_local()
    if own.numel():  # fewer rows than processes leave some without
        own.copy_(whole[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))])
