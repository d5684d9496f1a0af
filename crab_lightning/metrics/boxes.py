"""Image grounding (ARIG): intersection over union (IoU) of one box per image."""

from __future__ import annotations

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units

# 0.05 * i in floating point, as in the official code, where an IoU of exactly 0.15 does not reach 0.15.
_THRESHOLDS = [0.05 * i for i in range(21)]


def box_iou(pred: Tensor, target: Tensor, eps: float = 0.0) -> Tensor:
    """Return the intersection over union of each pair of boxes.

    A box with swapped or equal ends has the IoU 0 with every box, also with itself.

    Args:
        pred: ``(N, 4)``, ``x1, y1, x2, y2``, in the same unit as ``target``.
        target: ``(N, 4)``, ``x1, y1, x2, y2``.
        eps: Number that is added to the union.

    Returns:
        float64 ``(N,)`` in [0, 1].
    """
    pred, target = pred.to(torch.float64), target.to(torch.float64)
    size = torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])
    shared = size.clamp(min=0).prod(dim=1)
    union = sum((box[:, 2:] - box[:, :2]).prod(dim=1) for box in (pred, target)) - shared + eps
    return torch.where(shared > 0, shared / union, 0.0)


class BoxIoU(BenchmarkMetric):
    """Mean box IoU, the area under the success curve, and the success rate at 0.5; higher is better.

    Keys: ``iou`` (primary metric), ``auc`` (trapezoid area under "fraction of samples with IoU >= t" for
    t = 0, 0.05, ..., 1) and ``success_at_50``, each in [0, 1]. ``auc`` is at least 0.025, because every
    sample reaches t = 0.

    The area of a box is ``(x2 - x1) * (y2 - y1)``. Give four zeros for an answer without a box. It scores 0,
    as every empty or inverted box does. Without samples, the values are NaN.

    Source: box IoU of GeWu-Lab/Crab utils/ciou.py; curve of hche11/Localizing-Visual-Sounds-the-Hard-Way
    test.py. The paper does not define its number; its tables suggest that it is ``iou``.

    Args:
        eps: Number that is added to the union; 1e-6 in the function of Crab. With 1e-6, a perfect set has an
            ``auc`` of 0.975, and an IoU of one half does not reach 0.5.
    """

    iou_units: Tensor
    reached: Tensor
    samples: Tensor

    def __init__(self, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.add_sum("iou_units")
        self.add_sum("reached", len(_THRESHOLDS))
        self.add_sum("samples")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add N images with one box each.

        Args:
            pred: ``(N, 4)``, ``x1, y1, x2, y2``.
            target: ``(N, 4)``, ``x1, y1, x2, y2``, in the same frame.

        Raises:
            ValueError: If a shape is not ``(N, 4)`` or a coordinate is not finite.
        """
        if pred.shape != target.shape or pred.ndim != 2 or pred.shape[1] != 4:
            raise ValueError(
                f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; both must be (N, 4)"
            )
        if not bool((torch.isfinite(pred) & torch.isfinite(target)).all()):
            raise ValueError("a box contains NaN or infinity; pass four zeros for an answer without a box")
        iou = box_iou(pred, target, self.eps)
        thresholds = torch.tensor(_THRESHOLDS, dtype=torch.float64, device=iou.device)
        self.iou_units += to_units(iou).sum()
        self.reached += (iou[:, None] >= thresholds).sum(dim=0)
        self.samples += iou.numel()

    def compute(self) -> dict[str, Tensor]:
        """Return ``iou``, ``auc`` and ``success_at_50``."""
        curve = self.reached.to(torch.float64) / self.samples
        thresholds = torch.tensor(_THRESHOLDS, dtype=torch.float64, device=curve.device)
        return {
            "iou": mean_of(self.iou_units, self.samples),
            "auc": torch.trapezoid(curve, thresholds),
            "success_at_50": curve[10],
        }
