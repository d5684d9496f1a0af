"""Randomness as a pure function: of a seed and names, never of what was drawn before."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stable_hash(*keys: int | str) -> int:
    """Hash keys to 64 bits, equal on every machine and in every process.

    Python's own ``hash`` of a string differs from process to process, so it cannot choose data.

    >>> stable_hash(42, "ave/1") == stable_hash(42, "ave/1") != stable_hash(43, "ave/1")
    True
    """
    text = "\x1f".join(str(key) for key in keys)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def unit_hash(*keys: int | str) -> float:
    """Hash keys to [0, 1), uniformly."""
    return (stable_hash(*keys) >> 11) / (1 << 53)


def seeded_order(count: int, *keys: int | str) -> Indices:
    """Return a permutation of ``range(count)`` that only the keys decide.

    Sorts raw words of a counter-based generator: numpy promises those to stay the same between
    releases, which it does not promise of ``Generator.permutation``. A run resumed elsewhere must draw
    the same samples.
    """
    words = np.random.Philox(key=stable_hash(*keys)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def balanced_subset(
    ids: Sequence[str], answers: Sequence[Hashable], count: int | None, seed: int
) -> list[int]:
    """Choose samples so that all answers are equally represented as far as there are enough of them.

    Answers are taken in turn, in an order and with samples that only the seed decides, so every validation
    scores the same samples. Where every answer is different (captions) the choice is a plain random one.

    Args:
        ids: Sample ids.
        answers: What each sample is balanced by.
        count: Samples to choose; all of them when ``None``.
        seed: Seed of the choice.

    Returns:
        Indices of the chosen samples, ascending.
    """
    if count is None or len(ids) <= count:
        return list(range(len(ids)))
    groups: dict[Hashable, list[int]] = {}
    for index in sorted(range(len(ids)), key=lambda i: stable_hash(seed, "subset", ids[i])):
        groups.setdefault(answers[index], []).append(index)
    turns = [(turn, index) for group in groups.values() for turn, index in enumerate(group)]
    # Sorting by turn alone is stable: within a turn the groups keep their seeded order.
    turns.sort(key=lambda pair: pair[0])
    return sorted(index for _, index in turns[:count])
