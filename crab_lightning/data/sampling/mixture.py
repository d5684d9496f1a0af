"""The order of the training samples, as a function of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crab_lightning.data.sampling.seeding import Indices, seeded_order, unit_hash


@dataclass(frozen=True)
class Mixture:
    """Draws samples of several datasets by weight.

    The order of any epoch can be computed without the steps before, so a resumed run continues exactly. A
    sample is drawn again only after all rows of its dataset were drawn, also across epochs. With weights
    proportional to the numbers of rows, temperature 1 and no epoch size, an epoch has every row exactly once.

    Args:
        rows: Number of training rows of each dataset, in the order in which the samples are numbered.
        weights: Sampling weights, at least 0. By default, the weight of a dataset is its number of rows.
        temperature: The probability of a dataset is proportional to ``weight ** (1 / temperature)``. Values
            above 1 make the probabilities more equal.
        epoch_size: Number of samples in an epoch. With ``None``, it is the number of all rows.
        seed: Seed of the order.

    Raises:
        ValueError: If there is nothing to draw, or a dataset without rows has a weight above 0.
    """

    rows: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    epoch_size: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if weight > 0 and self.rows[name] == 0:
                raise ValueError(
                    f"data.datasets.{name} has weight {weight} but no training rows to draw from"
                )
        if not any(self._weight(name) for name in self.rows):
            raise ValueError(
                "data.datasets: nothing to train on; every dataset has weight 0 or no training rows"
            )

    def _weight(self, name: str) -> float:
        return float(self.weights.get(name, self.rows[name]))

    @property
    def shares(self) -> dict[str, float]:
        """For each dataset, the probability that a drawn sample comes from it. The sum is 1."""
        weights = np.array([self._weight(name) for name in self.rows])
        # The weights are divided by the largest first, because a high power of a large weight overflows.
        powers = np.where(weights > 0, (weights / weights.max()) ** (1 / self.temperature), 0.0)
        return dict(zip(self.rows, (powers / powers.sum()).tolist(), strict=True))

    def __len__(self) -> int:
        return sum(self.rows.values()) if self.epoch_size is None else self.epoch_size

    def counts(self, epoch: int) -> dict[str, int]:
        """Return the number of samples of each dataset in an epoch. The sum is ``len(self)``.

        This is systematic sampling: a number differs from ``share * len(self)`` by less than one in every
        epoch, and equals it on average. So a dataset with half a sample in an epoch is used in every second
        epoch.
        """
        edges = np.concatenate([[0.0], np.cumsum(list(self.shares.values()))]) * len(self)
        edges[-1] = len(self)
        # Whole numbers stay exact, so that "every row once" holds in spite of rounding errors.
        whole = np.round(edges)
        edges = np.where(np.abs(edges - whole) < 1e-6, whole, edges)
        offset = min(unit_hash(self.seed, "counts", epoch), 1 - 1e-6)
        drawn = np.diff(np.floor(edges + offset)).astype(int)
        return dict(zip(self.rows, drawn.tolist(), strict=True))

    def order(self, epoch: int) -> Indices:
        """Return the samples of an epoch in order, as indices into all datasets one after the other."""
        before = dict.fromkeys(self.rows, 0)
        for earlier in range(epoch):
            for name, count in self.counts(earlier).items():
                before[name] += count
        parts: list[NDArray[np.int64]] = []
        offset = 0
        for name, count in self.counts(epoch).items():
            parts.append(offset + self._draws(name, before[name], count))
            offset += self.rows[name]
        drawn = np.concatenate(parts)
        return drawn[seeded_order(len(drawn), self.seed, "order", epoch)]

    def _draws(self, name: str, start: int, count: int) -> Indices:
        """Return the rows of draws ``start`` to ``start + count`` from passes over the rows of a dataset."""
        rows = self.rows[name]
        if count == 0:
            return np.empty(0, dtype=np.int64)
        first, last = start // rows, (start + count - 1) // rows
        passes = [seeded_order(rows, self.seed, "pass", name, i) for i in range(first, last + 1)]
        skipped = start - first * rows
        return np.concatenate(passes)[skipped : skipped + count]
