"""Random numbers that depend only on a seed and on names, and not on earlier draws."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stable_hash(*keys: int | str) -> int:
    """Return a hash of keys with 64 bits, which is the same on every machine and in every process.

    Python's own ``hash`` of a string differs between processes, so it cannot be used to choose data.

    >>> stable_hash(42, "ave/1") == stable_hash(42, "ave/1") != stable_hash(43, "ave/1")
    True
    """
    text = "\x1f".join(str(key) for key in keys)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def unit_hash(*keys: int | str) -> float:
    """Return a hash of keys as a uniformly distributed number in [0, 1)."""
    return (stable_hash(*keys) >> 11) / (1 << 53)


def seeded_order(count: int, *keys: int | str) -> Indices:
    """Return a permutation of ``range(count)``, which depends only on the keys.

    It sorts raw numbers of a counter-based generator. numpy guarantees that these stay the same between
    releases, but not ``Generator.permutation``. A run that is resumed on another machine must draw the same
    samples.
    """
    words = np.random.Philox(key=stable_hash(*keys)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def balanced_subset(
    ids: Sequence[str], answers: Sequence[Hashable], count: int | None, seed: int
) -> list[int]:
    """Choose samples so that all answers occur equally often, as far as possible.

    The seed alone decides the choice, so every validation scores the same samples. If every answer is
    different (captions), the choice is random.

    Args:
        ids: Ids of the samples.
        answers: Answer of each sample.
        count: Number of samples to choose; ``None`` chooses all.
        seed: Seed of the choice.

    Returns:
        Indices of the chosen samples, in rising order.
    """
    if count is None or len(ids) <= count:
        return list(range(len(ids)))
    groups: dict[Hashable, list[int]] = {}
    for index in sorted(range(len(ids)), key=lambda i: stable_hash(seed, "subset", ids[i])):
        groups.setdefault(answers[index], []).append(index)
    turns = [(turn, index) for group in groups.values() for turn, index in enumerate(group)]
    # The sort is stable, so the groups keep their seeded order within a turn.
    turns.sort(key=lambda pair: pair[0])
    return sorted(index for _, index in turns[:count])
