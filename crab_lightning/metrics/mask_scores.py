"""The evaluation protocols for masks in published code, and J and F of single frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from crab_lightning.spelling import did_you_mean


@dataclass(frozen=True)
class MaskProtocol:
    """The way in which published code computes J, F and S of masks.

    Args:
        binary: Whether predictions are binary masks; otherwise they may be probabilities.
        threshold: Probability above which a pixel is part of the mask, for J.
        frames_per_batch: Number of frames over which F takes the best threshold and S adds pixels.
        source: The code that defines the protocol.
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
    """Return a protocol, with another batch size if one is given.

    Args:
        name: Key of ``PROTOCOLS``.
        frames_per_batch: Number of frames in a batch; ``None`` keeps that of the protocol.

    Raises:
        ValueError: If the name is unknown, ``frames_per_batch`` is negative, or it is not 1 for a protocol
            that scores single frames.
    """
    if name not in PROTOCOLS:
        near = did_you_mean(name, PROTOCOLS)
        raise ValueError(f"there is no mask protocol '{name}'{near}; known: {', '.join(PROTOCOLS)}")
    found = PROTOCOLS[name]
    if frames_per_batch is None:
        return found
    if frames_per_batch < 0 or (found.frames_per_batch == 1 and frames_per_batch != 1):
        raise ValueError(
            f"frames_per_batch is {frames_per_batch}; protocol '{name}' "
            + ("scores single frames, so it must be 1" if found.frames_per_batch == 1 else "needs 0 or more")
        )
    return replace(found, frames_per_batch=frames_per_batch)


def check_masks(pred: Tensor, protocol: MaskProtocol) -> None:
    """Raise an error for masks that a protocol cannot score.

    Raises:
        ValueError: If the shape is not ``(F, H, W)``, the protocol does not accept the type, or a logit is
            NaN.
    """
    if pred.ndim != 3:
        raise ValueError(f"pred has shape {tuple(pred.shape)}; masks must be (frames, height, width)")
    if pred.dtype != torch.bool and (protocol.binary or not pred.is_floating_point()):
        wanted = "bool masks" if protocol.binary else "bool masks or floating-point logits"
        raise ValueError(f"pred is {pred.dtype}; this protocol takes {wanted}")
    if pred.is_floating_point() and pred.numel() and bool(pred.min().isnan()):
        raise ValueError("pred contains NaN logits, so the training of the model has probably diverged")


def batch_sizes(frames: int, protocol: MaskProtocol) -> list[int]:
    """Return the sizes of the batches into which the frames of one update are cut, in order."""
    size = protocol.frames_per_batch or frames
    return [min(size, frames - first) for first in range(0, frames, size)] if frames else []


BETA_SQUARED = 0.3
LEVELS = 255


def pixels(masks: Tensor) -> Tensor:
    """Return the number of True pixels of each mask, float64 ``(F,)``."""
    if masks.device.type != "cpu":
        return masks.flatten(1).sum(dim=1).to(torch.float64)
    # NumPy counts the pixels of a mask in 2 us; the sum of torch takes 33 us (224x224, one thread).
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.float64)


def binary_scores(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return J and F of binary masks for each frame.

    If both masks are empty, J and F are 1. If only one of them is empty, they are 0.

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
    """Return F from precision and recall; 0 if it is undefined."""
    below = BETA_SQUARED * precision + recall
    return torch.where(below > 0, (1 + BETA_SQUARED) * precision * recall / below.clamp(min=1e-300), 0.0)


def background_jaccard(pred: Tensor, target: Tensor) -> Tensor:
    """Return J of binary masks, float64 ``(F,)``; with an empty truth, the fraction of unset pixels."""
    hits, positive, true = pixels(pred & target), pixels(pred), pixels(target)
    area = float(pred.shape[1] * pred.shape[2])
    # The official code adds 1e-7, which changes no printed digit and avoids 0/0.
    return torch.where(true > 0, hits / (positive + true - hits + 1e-7), (area - positive) / (area + 1e-7))


def f_curves(pred: Tensor, target: Tensor) -> Tensor:
    """Return F of each frame at 255 thresholds from 0 to 1.

    Args:
        pred: bool masks or probabilities ``(F, H, W)``. A True pixel of a bool mask reaches every threshold
            but 1, and a False pixel reaches only threshold 0.
        target: bool ``(F, H, W)``.

    Returns:
        float64 ``(F, 255)``; 0 if F is undefined.
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
        # A pixel is positive at the last threshold that it reaches and at all lower ones.
        reached = counts.flip(1).cumsum(dim=1).flip(1).to(true.device)
        hits, positive = reached[..., 1], reached.sum(dim=-1)
    return f_score(hits / positive.clamp(min=1), hits / true.clamp(min=1)[:, None])


def _histogram(probability: Tensor, truth: Tensor) -> Tensor:
    """Return the numbers of pixels of a frame by the last threshold they reach and by truth, ``(255, 2)``."""
    levels = torch.linspace(0, 1, LEVELS, device=probability.device)
    above = torch.cat([levels[1:], levels.new_full((1,), float("inf"))])
    # The product finds the threshold or a neighbour of it, and two comparisons find the exact one. This takes
    # 0.2 ms for 224x224 pixels on one thread; torch.bucketize takes 1.7 ms. int32 needs half the memory.
    flat = probability.flatten()
    place = (flat * (LEVELS - 1)).to(torch.int32)
    last = place + (flat >= above.index_select(0, place))
    last -= (flat < levels.index_select(0, place)).to(torch.int32)
    cell = last.mul_(2).add_(truth.flatten())
    return torch.bincount(cell, minlength=2 * LEVELS).view(LEVELS, 2)
