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
# A block stays in a core's second-level cache between its draw, its comparison and its use.
_BLOCK_ELEMENTS = 1 << 18


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


def dropped(x: Tensor, p: float, seed: int) -> Tensor:
    """Return ``x`` with elements zeroed by the mask of ``seed``, not rescaled.

    Args:
        x: ``(L, h)``, contiguous.
        p: Share of elements to zero, taken to the nearest 1/65536.
        seed: As drawn by ``draw_seed``; the same seed gives the same mask for the same shape and device.
    """
    out = torch.empty_like(x)
    for rows, keep in keep_blocks(x.shape[0], x.shape[1], p, seed, x.device):
        apply_keep(x[rows], keep, out[rows])
    return out


def apply_keep(x: Tensor, keep: Tensor, out: Tensor) -> None:
    """Write ``x`` where ``keep`` is 1, and zero elsewhere, to ``out`` (which may be ``x``)."""
    if x.element_size() == 2:
        # Integer product of the bit patterns: one vectorised pass and no conversion of the mask.
        torch.mul(x.view(torch.int16), keep, out=out.view(torch.int16))
    else:
        torch.mul(x, keep.to(x.dtype), out=out)


def keep_blocks(
    rows: int, columns: int, p: float, seed: int, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of rows with their part of the mask: int16 ``(block, columns)``, 1 keeps and 0 drops."""
    threshold = drop_count(p) - _LANES // 2
    if device.type == "cpu":
        # numpy's SFC64 gives its raw words in half the time of torch's Mersenne twister.
        generator = np.random.SFC64(seed)
        block = max(1, _BLOCK_ELEMENTS // max(columns, 1))
        for start in range(0, rows, block):
            stop = min(start + block, rows)
            count = (stop - start) * columns
            words = torch.from_numpy(generator.random_raw(-(-count // 4)).view(np.int64))
            yield slice(start, stop), _lanes(words, stop - start, columns).ge_(threshold)
        return
    # An accelerator wants one large launch.
    cuda = torch.Generator(device=device).manual_seed(seed)
    words = torch.empty(-(-rows * columns // 4), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=cuda)
    yield slice(0, rows), _lanes(words, rows, columns).ge_(threshold)


def _lanes(words: Tensor, rows: int, columns: int) -> Tensor:
    return words.view(torch.int16)[: rows * columns].view(rows, columns)
