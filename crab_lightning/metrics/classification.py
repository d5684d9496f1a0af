"""Closed-set metrics on class indices: accuracy, WAR, UAR, weighted F1 and the confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric

INVALID = -1
"""Index of an answer that is not a class; it is always wrong."""


def _check(pred: Tensor, target: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    pred, target = pred.reshape(-1).to(torch.int64), target.reshape(-1).to(torch.int64)
    if pred.shape != target.shape:
        raise ValueError(
            f"pred has {pred.numel()} class indices but target has {target.numel()}; give the same number"
        )
    if target.numel() == 0:
        return pred, target
    top = num_classes - 1 if num_classes is not None else None
    for name, low, values in (("target", 0, target), ("pred", INVALID, pred)):
        least, most = int(values.min()), int(values.max())
        if least < low or (top is not None and most > top):
            raise ValueError(
                f"{name} contains class indices from {least} to {most}; allowed are {low} to "
                f"{'any' if top is None else top}. Use -1 as prediction for an answer that is not a class."
            )
    return pred, target


class Accuracy(BenchmarkMetric):
    """Fraction of samples whose predicted class is the true one, in [0, 1]; higher is better.

    The prediction -1 (an answer that is not a class) counts as wrong. Without samples, the value is NaN.

    Source: ``valid`` in GeWu-Lab/OGM-GE_CVPR2022 main.py (CREMA-D, Kinetics-Sounds). UCF51 and VGG-CM have no
    public evaluation code and use the same formula.
    """

    right: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("right")
        self.add_sum("samples")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add N samples.

        Args:
            pred: Class indices ``(N,)``; -1 for an invalid answer.
            target: Class indices ``(N,)``.

        Raises:
            ValueError: If lengths differ, ``target`` has a negative index, or ``pred`` an index below -1.
        """
        pred, target = _check(pred, target, None)
        self.right += (pred == target).sum()
        self.samples += target.numel()

    def compute(self) -> Tensor:
        """Return the fraction of right samples, or NaN."""
        return self.right.to(torch.float64) / self.samples


class SegmentAccuracy(Accuracy):
    """Fraction of segments whose predicted class is the true one, in [0, 1]; higher is better.

    Background is a class like the others. The prediction -1 (an event with an unknown name) is always wrong.
    The value is a micro average over all segments. Without videos it is NaN; the official code divides by
    zero.

    Source: ``compute_acc`` in YapengTian/AVE-ECCV18 supervised_main.py.

    Args:
        segments: Number of segments of each video.
    """

    def __init__(self, segments: int = 10) -> None:
        super().__init__()
        self.segments = segments

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add N videos.

        Args:
            pred: Class of each segment ``(N, segments)``.
            target: Class of each segment ``(N, segments)``.

        Raises:
            ValueError: If a shape is another one, or ``target`` has a negative class.
        """
        if pred.shape != target.shape or target.ndim != 2 or target.shape[1] != self.segments:
            raise ValueError(
                f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; both must be "
                f"(videos, {self.segments})"
            )
        super().update(pred, target)


class ConfusionMatrix(BenchmarkMetric):
    """Numbers of samples by true class (rows) and predicted class (columns).

    The last column counts invalid answers (-1), so the sum of a row is the number of samples of its true
    class. The metrics below have the same state, so torchmetrics stores and updates it only once in a
    ``MetricCollection``. Without samples, all counts are 0.

    Args:
        num_classes: Number of classes C.

    Raises:
        ValueError: If ``num_classes`` is not positive.
    """

    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
        self.num_classes = num_classes
        self.add_sum("confusion", num_classes, num_classes + 1)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add N samples.

        Args:
            pred: Class indices ``(N,)``; -1 for an invalid answer.
            target: Class indices ``(N,)``.

        Raises:
            ValueError: If lengths differ, or an index is out of range.
        """
        pred, target = _check(pred, target, self.num_classes)
        columns = self.num_classes + 1
        cell = target * columns + torch.where(pred == INVALID, self.num_classes, pred)
        self.confusion += torch.bincount(cell, minlength=self.confusion.numel()).view_as(self.confusion)

    def compute(self) -> Tensor:
        """Return int64 counts ``(C, C + 1)``."""
        return self.confusion

    def _hits_and_support(self) -> tuple[Tensor, Tensor]:
        counts = self.confusion.to(torch.float64)
        return counts.diagonal(), counts.sum(dim=1)


class WeightedAverageRecall(ConfusionMatrix):
    """WAR: fraction of samples whose predicted class is the true one, in [0, 1]; higher is better.

    Invalid answers (-1) are wrong. Without samples, the value is NaN.

    Source: ``computer_uar_war`` in zengqunzhao/DFER-CLIP main.py (DFEW, MAFW); MELD calls it ACC.
    """

    def compute(self) -> Tensor:
        """Return the fraction of right samples, or NaN."""
        hits, support = self._hits_and_support()
        return hits.sum() / support.sum()


class UnweightedAverageRecall(ConfusionMatrix):
    """UAR: mean of the recalls of the classes, in [0, 1]; higher is better.

    The mean is over classes with at least one true sample. The official code gives NaN if a class without
    true samples is predicted; here such a class is left out, as in ``balanced_accuracy_score`` of
    scikit-learn. Invalid answers (-1) are wrong. Without samples, the value is NaN.

    Source: ``computer_uar_war`` in zengqunzhao/DFER-CLIP main.py.
    """

    def compute(self) -> Tensor:
        """Return the mean recall, or NaN."""
        hits, support = self._hits_and_support()
        present = support > 0
        return (hits[present] / support[present]).mean()


class WeightedF1(ConfusionMatrix):
    """Weighted F1 (WAF): mean of the classes' F1, weighted by true samples, in [0, 1]; higher is better.

    F1 is 0 if it is undefined. An invalid answer (-1) lowers only the recall of the true class. Without
    samples, the value is NaN.

    Source: ``calculate_results`` in zeroQiaoba/MERTools toolkit/dataloader/meld.py.
    """

    def compute(self) -> Tensor:
        """Return the weighted F1, or NaN."""
        hits, support = self._hits_and_support()
        predicted = self.confusion[:, : self.num_classes].sum(dim=0).to(torch.float64)
        f1 = 2 * hits / (support + predicted).clamp(min=1)
        return (f1 * support).sum() / support.sum()
