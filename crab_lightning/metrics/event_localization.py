"""Event localization: one class per one-second segment (AVE)."""

from __future__ import annotations

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric


class SegmentAccuracy(BenchmarkMetric):
    """Fraction of segments whose predicted class is the true one, in [0, 1]; higher is better.

    Background is a class like the others. Class -1 (an event of unknown name) matches nothing, not even
    background. One micro average over all segments. No videos: NaN, where the official code divides by zero.

    Source: ``compute_acc`` in YapengTian/AVE-ECCV18 supervised_main.py.

    Args:
        segments: Segments in each video.
    """

    right: Tensor
    total: Tensor

    def __init__(self, segments: int = 10) -> None:
        super().__init__()
        self.segments = segments
        self.add_sum("right")
        self.add_sum("total")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add N videos.

        Args:
            pred: Class of each segment ``(N, segments)``.
            target: Class of each segment ``(N, segments)``.

        Raises:
            ValueError: If a shape differs from that, or ``target`` holds a negative class.
        """
        if pred.shape != target.shape or target.ndim != 2 or target.shape[1] != self.segments:
            raise ValueError(
                f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; both must be "
                f"(videos, {self.segments})"
            )
        if target.numel() and int(target.min()) < 0:
            raise ValueError(f"target holds class {int(target.min())}; true classes start at 0")
        self.right += (pred == target).sum()
        self.total += target.numel()

    def compute(self) -> Tensor:
        """Return right / segments, or NaN."""
        return self.right.to(torch.float64) / self.total
