"""How the published codes turn masks into J, F and S: what is binary, which threshold, what is one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        raise ValueError("pred holds NaN logits; the training of the model that made them has diverged")


def batch_sizes(frames: int, protocol: MaskProtocol) -> list[int]:
    """Return the sizes of the protocol's batches that F frames of one update make; the last may be short."""
    size = protocol.frames_per_batch or frames
    return [min(size, frames - first) for first in range(0, frames, size)] if frames else []
