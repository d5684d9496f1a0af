"""Randomness as a pure function: of a seed and names, never of what was drawn before."""

from __future__ import annotations

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
