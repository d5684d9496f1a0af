"""How many texts people accept, how sure that is, and how far two of them agree."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import binomtest

from crab_lightning.builder.review.sample import Item
from crab_lightning.builder.review.store import ReviewVerdict


@dataclass(frozen=True)
class Rate:
    """Verdicts about the rows of one dataset.

    Args:
        dataset: Its key; ``all`` for all of them.
        counts: Number of verdicts by kind.
        rate: Fraction of accepted texts.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
    """

    dataset: str
    counts: Counter[str]
    rate: float
    low: float
    high: float


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, JASA 1927); 0 to 1 without any trial."""
    if not count:
        return 0.0, 1.0
    found = binomtest(hits, count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def rates(items: Sequence[Item], verdicts: Iterable[ReviewVerdict]) -> list[Rate]:
    """Return the rates of each dataset, and of all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for name in (items[verdict.item].dataset, "all"):
            counts[name][verdict.kind] += 1
    order = [*dict.fromkeys(item.dataset for item in items), "all"]
    found = []
    for name in order:
        hits, count = counts[name]["accept"], counts[name].total()
        found.append(Rate(name, counts[name], hits / count if count else 0.0, *wilson(hits, count)))
    return found


def kappas(verdicts: Iterable[ReviewVerdict]) -> list[tuple[str, str, int, float]]:
    """Return both names, common rows and Cohen's kappa (1960) of every two reviewers with common rows.

    Kappa is not a number where both gave one and the same verdict throughout.
    """
    said: dict[str, dict[int, str]] = defaultdict(dict)
    for verdict in verdicts:
        said[verdict.reviewer][verdict.item] = verdict.kind
    found = []
    for one, other in combinations(sorted(said), 2):
        common = said[one].keys() & said[other].keys()
        if not common:
            continue
        count = len(common)
        agreed = sum(said[one][i] == said[other][i] for i in common) / count
        first, second = (Counter(said[name][i] for i in common) for name in (one, other))
        chance = sum(first[kind] * second[kind] for kind in first) / count**2
        found.append((one, other, count, math.nan if chance == 1 else (agreed - chance) / (1 - chance)))
    return found
