"""Calibration: whether the probability of an answer is also how often it is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units
from crab_lightning.metrics.scale import Scale


class Calibration(BenchmarkMetric):
    """Expected calibration error, accuracy and mean confidence of answers with a probability.

    Confidences fall into equal bins over [0, 1], each holding its upper end. The error is the mean over
    answers of their bin's gap between accuracy and mean confidence, in [0, 1]; lower is better. It depends on
    the number of bins, and is biased upwards where answers are few.

    Args:
        bins: Number of bins; 15 as in the source.

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
            right: Whether it is the true one, bool ``(N,)``.

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
        """Return what was counted and what follows from it.

        Returns:
            ``error``, ``accuracy`` and ``confidence``, NaN without answers; and of each bin, ``(bins,)``, the
            number of answers ``bin_answers``, of right ones ``bin_right``, and the sum of confidences
            ``bin_confidence``.
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
