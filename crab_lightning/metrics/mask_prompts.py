"""Which kind of prompt gives the right mask, and how often: points, names, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric
from crab_lightning.metrics.mask_scores import binary_scores
from crab_lightning.metrics.scale import Scale

RIGHT_J = 0.5
"""A mask is right whose J with the true one is at least this."""
_LESS = Scale(higher_is_better=False)


class RightPrompts(BenchmarkMetric):
    """Fractions of answers whose mask is right, by what it was made of; in [0, 1].

    Right is a mask whose J with the true mask is at least 0.5 (both empty: 1).

    Keys: ``right_from_points`` (box and points), ``right_from_name``, ``right_from_both``;
    ``only_points_right``, ``only_name_right``, ``only_both_right``, where the other two are wrong;
    ``none_right``; and ``unnamed``, the fraction of answers that name nothing. No answers: NaN.

    Source: none; it is made here to compare prompts of one answer.
    """

    scales: ClassVar[Mapping[str, Scale]] = {"none_right": _LESS, "unnamed": _LESS}
    patterns: Tensor
    unnamed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("patterns", 8)  # answers by which of the three masks are right, as the bits of a number
        self.add_sum("unnamed")

    def update(self, points: Tensor, name: Tensor, both: Tensor, target: Tensor, named: bool) -> None:
        """Add one answer.

        Args:
            points: Mask of box and points, bool ``(H, W)``.
            name: Mask of the name, bool ``(H, W)``.
            both: Mask of both, bool ``(H, W)``.
            target: True mask, bool ``(H, W)``.
            named: Whether the answer names anything.
        """
        jaccard, _ = binary_scores(torch.stack([points, name, both]), target.expand(3, *target.shape))
        right = (jaccard >= RIGHT_J).long()
        self.patterns[int((right * right.new_tensor([1, 2, 4])).sum())] += 1
        self.unnamed += int(not named)

    def compute(self) -> dict[str, Tensor]:
        """Return the fractions."""
        counts = self.patterns.to(torch.float64)
        total = counts.sum()
        shares = {}
        for bit, kind in enumerate(("points", "name", "both")):
            with_it = [pattern for pattern in range(8) if pattern >> bit & 1]
            shares[f"right_from_{kind}"] = counts[with_it].sum() / total
        for bit, kind in enumerate(("points", "name", "both")):
            shares[f"only_{kind}_right"] = counts[1 << bit] / total
        return {**shares, "none_right": counts[0] / total, "unnamed": self.unnamed / total}
