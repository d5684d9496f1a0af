"""Calibration: how well the probability of an answer agrees with how often it is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units
from crab_lightning.metrics.scale import Scale


class Calibration(BenchmarkMetric):
    """Expected calibration error, accuracy and mean confidence of answers with a probability.

    Confidences are sorted into equal bins over [0, 1]; a bin includes its upper end. The error is the mean,
    over all answers, of the difference between accuracy and mean confidence in the answer's bin. It is in
    [0, 1], and lower is better. It depends on the number of bins, and is too large with few answers.

    Args:
        bins: Number of bins; 15 in the source.

    Raises:
        ValueError: If ``bins`` is below 1.

    Source: Guo et al., ICML 2017 (arXiv:1706.04599), equation 3.
    """

    higher_is_better = False
    scales: ClassVar[Mapping[str, Scale]] = {"accuracy": Scale(), "confidence": Scale()}
    answers: Tensor
    right: Tensor
    confidence: Tensor

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"bins is {bins}; at least one is needed")
        self.bins = bins
        self.add_sum("answers", bins)
        self.add_sum("right", bins)
        self.add_sum("confidence", bins)

    def update(self, confidence: Tensor, right: Tensor) -> None:
        """Add N answers.

        Args:
            confidence: Probability of each chosen answer, ``(N,)``.
            right: Whether the answer is right, bool ``(N,)``.

        Raises:
            ValueError: If a confidence is outside [0, 1].
        """
        sure = confidence.to(torch.float64)
        if bool(((sure < 0) | (sure > 1) | sure.isnan()).any()):
            raise ValueError(f"a confidence is not between 0 and 1: {confidence.tolist()}")
        place = (torch.ceil(sure * self.bins).long() - 1).clamp(min=0, max=self.bins - 1)
        self.answers.index_add_(0, place, torch.ones_like(place))
        self.right.index_add_(0, place, right.long())
        self.confidence.index_add_(0, place, to_units(sure))

    def compute(self) -> dict[str, Tensor]:
        """Return the calibration error and the counts of each bin.

        Returns:
            ``error``, ``accuracy`` and ``confidence`` (NaN without answers), and for each bin, ``(bins,)``:
            the number of answers ``bin_answers``, the number of right answers ``bin_right``, and the sum of
            confidences ``bin_confidence``.
        """
        count = self.answers.sum()
        sums = mean_of(self.confidence, torch.ones_like(self.confidence))
        return {
            "error": (self.right - sums).abs().sum() / count,
            "accuracy": self.right.sum().double() / count,
            "confidence": mean_of(self.confidence.sum(), count),
            "bin_answers": self.answers.clone(),
            "bin_right": self.right.clone(),
            "bin_confidence": sums,
        }
