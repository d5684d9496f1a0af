"""Which sample is drawn when: the order of training as a function of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crab_lightning.data.sampling.seeding import Indices, seeded_order, unit_hash


@dataclass(frozen=True)
class Mixture:
    """Draws samples of several datasets by weight.

    Nothing is drawn step by step, so any position of any epoch is known without what came before it, and a
    run resumed there continues exactly. A sample comes again only after all rows of its dataset have been
    drawn, across epochs too. With weights proportional to the numbers of rows, temperature 1 and no epoch
    size, an epoch is every row exactly once.

    Args:
        rows: Training rows of each dataset, in the order in which their samples are numbered.
        weights: Sampling weights; a dataset that is left out weighs as much as it has rows.
        temperature: Shares are proportional to ``weight ** (1 / temperature)``: above 1 evens datasets out.
        epoch_size: Samples of an epoch; the total number of rows when ``None``.
        seed: Seed of the order.

    Raises:
        ValueError: If there is nothing to draw, or a weight, the temperature or the size makes no sense.
    """

    rows: Mapping[str, int]
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    epoch_size: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"data.temperature is {self.temperature}; it must be above 0 (1 keeps the weights)"
            )
        if self.epoch_size is not None and self.epoch_size < 1:
            raise ValueError(f"data.epoch_size is {self.epoch_size}; an epoch needs at least 1 sample")
        for name, weight in self.weights.items():
            if not (0 <= weight < float("inf")):
                raise ValueError(f"data.datasets.{name}.weight is {weight}; a weight must be at least 0")
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
        """Chance that a drawn sample comes from each dataset; they add up to 1."""
        weights = np.array([self._weight(name) for name in self.rows])
        # Divided by the largest first: a high power of a large weight overflows.
        powers = np.where(weights > 0, (weights / weights.max()) ** (1 / self.temperature), 0.0)
        return dict(zip(self.rows, (powers / powers.sum()).tolist(), strict=True))

    def __len__(self) -> int:
        return sum(self.rows.values()) if self.epoch_size is None else self.epoch_size

    def counts(self, epoch: int) -> dict[str, int]:
        """Samples that each dataset gives to an epoch; they add up to ``len(self)``.

        Systematic sampling: within one of ``share * len(self)`` in every epoch and equal to it on average,
        so that a dataset whose share of an epoch is half a sample is still seen every other epoch.
        """
        edges = np.concatenate([[0.0], np.cumsum(list(self.shares.values()))]) * len(self)
        edges[-1] = len(self)
        # Whole quotas stay exact: rounding errors must not turn "every row once" into almost that.
        whole = np.round(edges)
        edges = np.where(np.abs(edges - whole) < 1e-6, whole, edges)
        offset = min(unit_hash(self.seed, "counts", epoch), 1 - 1e-6)
        drawn = np.diff(np.floor(edges + offset)).astype(int)
        return dict(zip(self.rows, drawn.tolist(), strict=True))

    def order(self, epoch: int) -> Indices:
        """Return the samples of an epoch in order: indices into the datasets laid end to end."""
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
        """Rows that draws ``start`` to ``start + count`` take from a dataset, pass after pass over it."""
        rows = self.rows[name]
        if count == 0:
            return np.empty(0, dtype=np.int64)
        first, last = start // rows, (start + count - 1) // rows
        passes = [seeded_order(rows, self.seed, "pass", name, i) for i in range(first, last + 1)]
        skipped = start - first * rows
        return np.concatenate(passes)[skipped : skipped + count]
