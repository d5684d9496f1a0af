"""Frames to the flat patches that the vision tower reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crab_lightning.processing.geometry import MERGE, PATCH_PX, TEMPORAL_PATCH

# CLIP's statistics, which Qwen2.5-Omni kept.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
_SCALE = 1.0 / (1 / 255)  # as the stock processor rounds it
_MEANS, _STDS = ((torch.tensor(values) * _SCALE).view(1, -1, 1) for values in (IMAGE_MEAN, IMAGE_STD))


def patchify(frames: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Cut frames into normalised patches, in the order that the 2 x 2 merger expects.

    The bytes are put in order first and become floats afterwards, and they move by 14 at a time, the longest
    run that stays together: a quarter of the time of moving single values. Values and order equal those of
    the stock processor with ``do_resize=False``.

    Args:
        frames: uint8 ``(F, 3, H, W)``, sides multiples of 28; an odd F is filled up with its last frame.

    Returns:
        Patches, float32 ``(P, 3 * 2 * 14 * 14)``, and their grid ``(t, h, w)`` with ``P = t * h * w``.
    """
    if pad := -frames.shape[0] % TEMPORAL_PATCH:
        frames = torch.cat((frames, frames[-1:].expand(pad, -1, -1, -1)))
    count, channels, height, width = frames.shape
    t, h, w = count // TEMPORAL_PATCH, height // PATCH_PX, width // PATCH_PX
    runs = frames.contiguous().numpy().view(f"V{PATCH_PX}")
    runs = runs.reshape(t, TEMPORAL_PATCH, channels, h // MERGE, MERGE, PATCH_PX, w // MERGE, MERGE)
    ordered = np.ascontiguousarray(runs.transpose(0, 3, 6, 4, 7, 2, 1, 5)).view(np.uint8)
    cells = torch.from_numpy(ordered.reshape(t * h * w, channels, -1))
    return cells.to(torch.float32).sub_(_MEANS).div_(_STDS).reshape(t * h * w, -1), (t, h, w)
