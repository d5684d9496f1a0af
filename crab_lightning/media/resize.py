"""Stretching pictures to the square that the models see."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


def stretch(pictures: Tensor, size_px: int) -> Tensor:
    """Stretch uint8 pictures ``(F, C, H, W)`` to ``(F, C, size_px, size_px)``, bicubic with antialias.

    The aspect ratio is ignored. Values equal those of torchvision's ``resize`` with ``antialias=True`` on
    uint8 tensors: the geometry of the released checkpoints.
    """
    if tuple(pictures.shape[-2:]) == (size_px, size_px):
        return pictures
    size = (size_px, size_px)
    if _has_uint8_kernel():
        return functional.interpolate(
            pictures, size=size, mode="bicubic", align_corners=False, antialias=True
        )
    resized = functional.interpolate(
        pictures.float(), size=size, mode="bicubic", align_corners=False, antialias=True
    )
    # Bicubic overshoots at edges: clamp, or 256 becomes 0 as uint8.
    return resized.clamp_(0, 255).round_().to(torch.uint8)


@cache
def _has_uint8_kernel() -> bool:
    # Without AVX2 or SVE torch's uint8 path is slower than float (torchvision draws the same line).
    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX2" in capability or "AVX512" in capability or "SVE" in capability
