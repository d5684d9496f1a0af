"""Dropout masks that are drawn twice from one seed instead of being kept for backward.

A mask over the layer input is as large as the input; kept for backward it would be the largest thing that a
low-rank adapter keeps. The seed is one number. Bits come 16 to a decision from raw 64-bit draws: library
dropout draws one number per element and costs more than the adapter's matrix products on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_LANES = 1 << 16
# Wide enough for a matrix product of its own, small enough to stay in a core's caches between the draw, the
# comparison and the product.
_BLOCK_COLUMNS = 1 << 10


def drop_count(p: float) -> int:
    """Return how many of 65536 equally likely draws drop an element; at least 1, at most 65535."""
    return min(max(round(p * _LANES), 1), _LANES - 1)


def keep_scale(p: float) -> float:
    """Return the factor that keeps the mean of ``x`` under the mask that is really drawn."""
    return _LANES / (_LANES - drop_count(p))


def draw_seed() -> int:
    """Draw a mask's seed from torch's CPU generator.

    Being torch's own state it follows ``seed_everything``, and checkpointing restores it, so that a
    recomputed layer draws the mask of its first run.
    """
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())


def dropped(x: Tensor, keep: Tensor) -> Tensor:
    """Return ``x`` with zeros where ``keep`` (int16) is 0."""
    if x.element_size() == 2:
        # Integer product of the bit patterns: one vectorised pass and no conversion of the mask.
        return (x.view(torch.int16) * keep).view(x.dtype)
    return x * keep


def mask_blocks(
    rows: int, columns: int, p: float, seed: int, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Draw the mask of ``seed`` over ``(rows, columns)``, one block of neighbouring columns after the other.

    Args:
        rows: Tokens L.
        columns: Inputs h.
        p: Share of elements to drop, taken to the nearest 1/65536.
        seed: As drawn by ``draw_seed``. The same seed gives the same mask for the same shape and device.
        device: Where the mask is used.

    Yields:
        The columns c and their mask, int16 ``(L, c)``: 1 keeps and 0 drops.
    """
    threshold = drop_count(p) - _LANES // 2
    if device.type != "cpu":
        # An accelerator wants one large launch.
        generator = torch.Generator(device=device).manual_seed(seed)
        words = torch.empty(-(-rows * columns // 4), dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=generator)
        yield slice(0, columns), _lanes(words, rows, columns).ge_(threshold)
        return
    # numpy's SFC64 gives its raw words in half the time of torch's Mersenne twister.
    raw = np.random.SFC64(seed).random_raw
    for left in range(0, columns, _BLOCK_COLUMNS):
        width = min(_BLOCK_COLUMNS, columns - left)
        words = torch.from_numpy(raw(-(-rows * width // 4)).view(np.int64))
        yield slice(left, left + width), _lanes(words, rows, width).ge_(threshold)


def _lanes(words: Tensor, rows: int, columns: int) -> Tensor:
    return words.view(torch.int16)[: rows * columns].view(rows, columns)
