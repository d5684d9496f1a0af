"""Tests of significance: the p value of bootstrap draws, Holm's correction, and the sign test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.float64]
TIE = 1e-12


def p_value(drawn: Draws, questions: int) -> float:
    """Return the two-sided p value of the hypothesis that a quantity is zero, from its bootstrap draws.

    Resamples of a few questions are all similar. Therefore the p value is never below ``2 ** (1 -
    questions)``, the smallest possible p value of the exact sign-flip test: with three questions, nothing can
    be certain.

    Args:
        drawn: The quantity in each resample; values that are not finite are left out.
        questions: Number of questions that are resampled.
    """
    known = drawn[np.isfinite(drawn)]
    below, above = int((known <= 0).sum()), int((known >= 0).sum())
    least = 2.0 ** (1 - min(questions, 1000))
    return min(1.0, max(least, 2 * (1 + min(below, above)) / (len(known) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method (Scandinavian Journal of Statistics, 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def sign_test(gains: Sequence[float]) -> float:
    """Return the p value of the exact two-sided sign test without the ties; 1 if there are only ties."""
    from scipy.stats import binomtest

    up, down = sum(g > TIE for g in gains), sum(g < -TIE for g in gains)
    return 1.0 if up + down == 0 else float(binomtest(up, up + down, 0.5).pvalue)
