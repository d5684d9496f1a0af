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
# A block stays in a core's second-level cache between its draw, its comparison and its use; a panel is small
# enough for the allocator to hand out memory that is mapped already.
_BLOCK_ELEMENTS = 1 << 18
_PANEL_ELEMENTS = 1 << 22
_MIN_PANEL_COLUMNS = 1 << 10


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


class MaskPanel:
    """The mask of a few neighbouring columns: int16 blocks of rows, 1 keeps and 0 drops.

    Args:
        columns: The columns.
        blocks: Slices of rows, each with its part of the mask.
    """

    def __init__(self, columns: slice, blocks: list[tuple[slice, Tensor]]) -> None:
        self.columns = columns
        self._blocks = blocks

    def apply(self, x: Tensor, out: Tensor) -> None:
        """Write ``x`` ``(L, columns)`` where it is kept and 0 elsewhere to ``out``, which may be ``x``."""
        for rows, keep in self._blocks:
            _mask(x[rows], keep, out[rows])

    def add(self, x: Tensor, to: Tensor) -> None:
        """Zero the dropped elements of ``x`` in place and add it to ``to``, block by block."""
        for rows, keep in self._blocks:
            block = x[rows]
            _mask(block, keep, block)
            to[rows].add_(block)


def mask_panels(rows: int, columns: int, p: float, seed: int, device: torch.device) -> Iterator[MaskPanel]:
    """Draw the mask of ``seed`` over ``(rows, columns)``, one panel of columns after the other.

    Args:
        rows: Tokens L.
        columns: Inputs h.
        p: Share of elements to drop, taken to the nearest 1/65536.
        seed: As drawn by ``draw_seed``. The same seed gives the same mask for the same shape and device.
        device: Where the mask is used.
    """
    threshold = drop_count(p) - _LANES // 2
    if device.type != "cpu":
        # An accelerator wants one large launch.
        generator = torch.Generator(device=device).manual_seed(seed)
        words = torch.empty(-(-rows * columns // 4), dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=generator)
        yield MaskPanel(slice(0, columns), [(slice(0, rows), _lanes(words, rows, columns).ge_(threshold))])
        return
    # numpy's SFC64 gives its raw words in half the time of torch's Mersenne twister.
    raw = np.random.SFC64(seed).random_raw
    panels = max(1, -(-columns // max(_PANEL_ELEMENTS // max(rows, 1), _MIN_PANEL_COLUMNS)))
    width = -(-columns // panels // 64) * 64
    height = max(1, _BLOCK_ELEMENTS // max(width, 1))
    for left in range(0, columns, max(width, 1)):
        here = min(width, columns - left)
        blocks: list[tuple[slice, Tensor]] = []
        for top in range(0, rows, height):
            high = min(height, rows - top)
            words = torch.from_numpy(raw(-(-high * here // 4)).view(np.int64))
            blocks.append((slice(top, top + high), _lanes(words, high, here).ge_(threshold)))
        yield MaskPanel(slice(left, left + here), blocks)


def _lanes(words: Tensor, rows: int, columns: int) -> Tensor:
    return words.view(torch.int16)[: rows * columns].view(rows, columns)


def _mask(x: Tensor, keep: Tensor, out: Tensor) -> None:
    if x.element_size() == 2:
        # Integer product of the bit patterns: one vectorised pass and no conversion of the mask.
        torch.mul(x.view(torch.int16), keep, out=out.view(torch.int16))
    else:
        torch.mul(x, keep.to(x.dtype), out=out)
