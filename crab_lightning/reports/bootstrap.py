"""Computes the paired bootstrap of a difference between two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2_000_000
_COUNT_COST = 10


@dataclass(frozen=True)
class Difference:
    """A mean, such as that of differences between paired scores, with its 95 % interval.

    Args:
        mean: Mean over the samples.
        low: Lower end of the interval.
        high: Upper end of the interval.
        samples: Number of samples.
    """

    mean: float
    low: float
    high: float
    samples: int

    @property
    def differs(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference | None:
    """Return the mean of ``b - a`` over the samples that are in both runs, with its bootstrap interval.

    Samples are drawn with replacement, each with both scores. So the difficulty of a sample, which is the
    same for both runs, has no influence. The interval is the percentile interval (Efron, 1979; Koehn, EMNLP
    2004).

    Args:
        a: Scores by sample id.
        b: Scores by sample id.
        resamples: Number of resamples.
        seed: Seed of the resampling. The same pairs give the same interval.

    Returns:
        The difference, or ``None`` if no sample is in both runs.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    delta = np.array([b[i] - a[i] for i in common], dtype=np.float64)
    return bootstrap_mean(delta, resamples=resamples, seed=seed)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Return the mean of values and its 95 % percentile interval.

    Raises:
        ValueError: If there are no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values to resample")
    means = _resampled_means(data, resamples, np.random.default_rng(seed))
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(data.mean()), float(low), float(high), int(data.size))


def _resampled_means(
    data: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the means of resamples ``(resamples,)``, with the faster one of two methods."""
    distinct, counts = np.unique(data, return_counts=True)
    means = np.empty(resamples)
    # A resample can be described by how often each different value is drawn, and there are often only three
    # values. Drawing a count takes about as long as drawing ten indices.
    few = _COUNT_COST * len(distinct) <= data.size
    share = counts / data.size
    share /= share.sum()
    step = max(1, _CHUNK // (len(distinct) if few else data.size))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if few:
            means[start : start + size] = rng.multinomial(data.size, share, size=size) @ distinct / data.size
        else:
            drawn = rng.integers(0, data.size, (size, data.size), dtype=np.int32)
            means[start : start + size] = data[drawn].mean(axis=1)
    return means
