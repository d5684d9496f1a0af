"""Tests of significance for gains: bootstrap p values, Holm's correction and the sign test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.float64]
TIE = 1e-12


def p_value(drawn: Draws, questions: int) -> float:
    """Return the two-sided p value of a quantity's being zero from its bootstrap draws.

    Resamples of a few questions all look alike, so the value is never below that of the exact sign-flip test
    at its most extreme, ``2 ** (1 - questions)``: three questions can make nothing certain.

    Args:
        drawn: The quantity in each resample.
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
    """Return the p value of the exact two-sided sign test, ties left out; 1 where only ties are left."""
    from scipy.stats import binomtest

    up, down = sum(g > TIE for g in gains), sum(g < -TIE for g in gains)
    return 1.0 if up + down == 0 else float(binomtest(up, up + down, 0.5).pvalue)
