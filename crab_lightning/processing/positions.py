"""Computes the three-dimensional positions (time, height, width) of a prompt with media.

The models compute them with Python loops over all tokens, on the device, with a synchronisation for each
clip. Here a loader worker computes them from the list of blocks. Source: M-RoPE as in Qwen2.5-Omni
(arXiv:2503.20215), in which text and audio advance by one and a pair of frames by ``25 x seconds_per_grid``;
and ``get_rope_index`` of both models in transformers, which differ in the position of the text after a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crab_lightning.processing.geometry import MERGE

PAD_POSITION = 1  # the position of padding in the model

Behind = Literal["all", "frame"]
"""Where the text after a block continues: after the largest position of the block (``all``, Qwen2.5-Omni), or
after the larger of height and width of one frame (``frame``, Qwen2.5-VL in transformers 5)."""


@dataclass(frozen=True)
class Block:
    """Consecutive visual tokens of one video or image in a prompt.

    Args:
        start: Index of the first token.
        grid: Number of patches in time, height and width, before merging.
        seconds_per_grid: Time in seconds between two steps of the grid in time.
    """

    start: int
    grid: tuple[int, int, int]
    seconds_per_grid: float


def rope_positions(
    length: int,
    blocks: Sequence[Block],
    positions_per_s: float,
    behind: Behind = "all",
    *,
    whole: bool = True,
) -> Tensor:
    """Return the positions of ``length`` tokens, int64 ``(3, length)``, or float32 with ``whole=False``.

    Args:
        length: Number of tokens in the prompt.
        blocks: The visual blocks, in order. Audio tokens count like text.
        positions_per_s: Number of positions in time for each second (25; 2 in Qwen2.5-VL, 13 in Qwen3-Omni).
        behind: Where the tokens after a block continue.
        whole: Round positions in time down. Qwen3-Omni keeps their fractions.
    """
    kind: type[Any] = np.int64 if whole else np.float32
    out = np.empty((3, length), dtype=kind)
    cursor, following = 0, kind(0)  # next token, and its position
    for block in blocks:
        run = block.start - cursor
        out[:, cursor : block.start] = following + np.arange(run, dtype=kind)
        following += run
        t, h, w = block.grid[0], block.grid[1] // MERGE, block.grid[2] // MERGE
        # float32 and truncation, as in the model
        times = (
            np.arange(t, dtype=np.float32) * np.float32(block.seconds_per_grid) * positions_per_s
        ).astype(kind)
        end = block.start + t * h * w
        out[0, block.start : end] = following + np.repeat(times, h * w)
        out[1, block.start : end] = following + np.tile(np.repeat(np.arange(h), w), t)
        out[2, block.start : end] = following + np.tile(np.arange(w), t * h)
        following = out[:, block.start : end].max() + kind(1) if behind == "all" else following + max(h, w)
        cursor = end
    out[:, cursor:] = following + np.arange(length - cursor, dtype=kind)
    return torch.from_numpy(out)
