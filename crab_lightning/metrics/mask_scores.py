"""How the published codes turn masks into J, F and S, and J and F of single frames from their pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from crab_lightning.spelling import did_you_mean


@dataclass(frozen=True)
class MaskProtocol:
    """How published code turns masks into J, F and S.

    Args:
        binary: Masks are binary and an empty truth wants an empty prediction; otherwise probabilities count.
        threshold: Probability above which a pixel is in the mask that J sees.
        frames_per_batch: Frames over which F takes its best threshold and S pools pixels.
        source: The code that defines it.
    """

    binary: bool
    threshold: float
    frames_per_batch: int
    source: str


PROTOCOLS = {
    "crabplus": MaskProtocol(
        True, 0.5, 1, "GeWu-Lab/Crab_Plus seg/scripts/inference_3.py, inference_ref_3.py"
    ),
    "avsbench": MaskProtocol(False, 0.5, 5, "OpenNLPLab/AVSBench avs_scripts/avs_s4/utils/utility.py"),
    "framewise": MaskProtocol(False, 0.5, 1, "GeWu-Lab/Crab utils/avss_utils.py, one frame at a time"),
    "refavs": MaskProtocol(False, 0.4, 10, "GeWu-Lab/Ref-AVS utils/metric/utility.py"),
}


def find_protocol(name: str, frames_per_batch: int | None) -> MaskProtocol:
    """Look up a protocol and set its batch size.

    Args:
        name: Key of ``PROTOCOLS``.
        frames_per_batch: Frames in a batch, ``None`` for the protocol's own.

    Raises:
        ValueError: If the name is unknown, or the protocol scores frames singly and another number is asked.
    """
    if name not in PROTOCOLS:
        near = did_you_mean(name, PROTOCOLS)
        raise ValueError(f"no mask protocol '{name}'{near}; there are: {', '.join(PROTOCOLS)}")
    found = PROTOCOLS[name]
    if frames_per_batch is None:
        return found
    if frames_per_batch < 0 or (found.frames_per_batch == 1 and frames_per_batch != 1):
        raise ValueError(
            f"frames_per_batch is {frames_per_batch}; protocol '{name}' "
            + ("scores every frame alone" if found.frames_per_batch == 1 else "needs 0 or more")
        )
    return replace(found, frames_per_batch=frames_per_batch)


def check_masks(pred: Tensor, protocol: MaskProtocol) -> None:
    """Refuse masks that a protocol cannot score.

    Raises:
        ValueError: If shape or type is another, or a logit is not a number.
    """
    if pred.ndim != 3:
        raise ValueError(f"pred has shape {tuple(pred.shape)}; masks must be (frames, height, width)")
    if pred.dtype != torch.bool and (protocol.binary or not pred.is_floating_point()):
        wanted = "bool masks" if protocol.binary else "bool masks or floating-point logits"
        raise ValueError(f"pred is {pred.dtype}; this protocol takes {wanted}")
    if pred.is_floating_point() and pred.numel() and bool(pred.min().isnan()):
        raise ValueError("pred contains NaN logits; the training of the model that made them has diverged")


def batch_sizes(frames: int, protocol: MaskProtocol) -> list[int]:
    """Return the sizes of the protocol's batches that F frames of one update make; the last may be short."""
    size = protocol.frames_per_batch or frames
    return [min(size, frames - first) for first in range(0, frames, size)] if frames else []


BETA_SQUARED = 0.3
LEVELS = 255


def pixels(masks: Tensor) -> Tensor:
    """Count the pixels that are set in each mask; float64 ``(F,)``."""
    if masks.device.type != "cpu":
        return masks.flatten(1).sum(dim=1).to(torch.float64)
    # NumPy counts bits of a mask in 2 us; torch's sum over bool takes 33 us (224x224, one thread).
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.float64)


def binary_scores(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """J and F of binary masks, frame by frame.

    Both empty: 1 and 1. One empty: 0 and 0.

    Args:
        pred: bool ``(F, H, W)``.
        target: bool ``(F, H, W)``.

    Returns:
        J and F, float64 ``(F,)`` each.
    """
    hits, positive, true = pixels(pred & target), pixels(pred), pixels(target)
    union = positive + true - hits
    jaccard = torch.where(union > 0, hits / union.clamp(min=1), 1.0)
    precision = torch.where(positive > 0, hits / positive.clamp(min=1), 1.0)
    recall = torch.where(true > 0, hits / true.clamp(min=1), 1.0)
    return jaccard, f_score(precision, recall)


def f_score(precision: Tensor, recall: Tensor) -> Tensor:
    """Return F from precision and recall; 0 where it is undefined."""
    below = BETA_SQUARED * precision + recall
    return torch.where(below > 0, (1 + BETA_SQUARED) * precision * recall / below.clamp(min=1e-300), 0.0)


def background_jaccard(pred: Tensor, target: Tensor) -> Tensor:
    """J of binary masks; a frame with empty truth scores its share of background. float64 ``(F,)``."""
    hits, positive, true = pixels(pred & target), pixels(pred), pixels(target)
    area = float(pred.shape[1] * pred.shape[2])
    # The 1e-7 is the official one. It matters to no printed digit, but it keeps 0/0 out.
    return torch.where(true > 0, hits / (positive + true - hits + 1e-7), (area - positive) / (area + 1e-7))


def f_curves(pred: Tensor, target: Tensor) -> Tensor:
    """F of each frame at the 255 thresholds from 0 to 1.

    Args:
        pred: bool masks or probabilities ``(F, H, W)``; a set pixel of a bool mask passes every threshold but
            1, and an unset one only threshold 0.
        target: bool ``(F, H, W)``.

    Returns:
        float64 ``(F, 255)``; 0 where F is undefined.
    """
    true = pixels(target)
    if pred.dtype == torch.bool:
        hits, positive = (torch.zeros(len(pred), LEVELS, dtype=torch.float64).to(true) for _ in range(2))
        hits[:, 1:-1], positive[:, 1:-1] = pixels(pred & target)[:, None], pixels(pred)[:, None]
        hits[:, 0], positive[:, 0] = true, float(pred.shape[1] * pred.shape[2])
    else:
        counts = torch.zeros(len(pred), LEVELS, 2, dtype=torch.float64)
        for i, (frame, truth) in enumerate(zip(pred, target, strict=True)):
            counts[i] = _histogram(frame, truth)
        # A pixel is positive at the last threshold that it passes and at all before.
        reached = counts.flip(1).cumsum(dim=1).flip(1).to(true.device)
        hits, positive = reached[..., 1], reached.sum(dim=-1)
    return f_score(hits / positive.clamp(min=1), hits / true.clamp(min=1)[:, None])


def _histogram(probability: Tensor, truth: Tensor) -> Tensor:
    """Count the pixels of a frame by the last threshold they pass and by truth; ``(255, 2)``."""
    levels = torch.linspace(0, 1, LEVELS, device=probability.device)
    above = torch.cat([levels[1:], levels.new_full((1,), float("inf"))])
    # Multiplying finds the threshold to within one, comparing with its neighbours makes it exact: 0.2 ms for
    # 224x224 pixels on one thread, where torch.bucketize takes 1.7 ms. int32 halves the memory traffic.
    flat = probability.flatten()
    place = (flat * (LEVELS - 1)).to(torch.int32)
    last = place + (flat >= above.index_select(0, place))
    last -= (flat < levels.index_select(0, place)).to(torch.int32)
    cell = last.mul_(2).add_(truth.flatten())
    return torch.bincount(cell, minlength=2 * LEVELS).view(LEVELS, 2)
