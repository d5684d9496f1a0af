"""This process's share of a tensor that several processes hold together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


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
