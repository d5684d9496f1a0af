"""Three-dimensional positions (time, height, width) of a prompt with media.

The model computes them itself with Python loops over every token, on the device, with a synchronisation for
each clip. Here a loader worker does it from the list of segments. Source: M-RoPE as in Qwen2.5-Omni
(arXiv:2503.20215): text and audio step by one, a pair of frames by ``25 x seconds_per_grid``; and
``get_rope_index`` of both models in transformers, which differ in where text goes on behind a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crab_lightning.processing.geometry import MERGE

PAD_POSITION = 1  # what the model gives to padded places

Behind = Literal["all", "frame"]
"""Text behind a block goes on after the largest position of it (Qwen2.5-Omni), or after the height or width
of one frame, whichever is larger (Qwen2.5-VL in transformers 5), so that it lies beside the later frames."""


@dataclass(frozen=True)
class Block:
    """A run of visual tokens in a prompt.

    Args:
        start: Index of its first token.
        grid: Patches in time, height and width, before merging.
        seconds_per_grid: Time between two rows of the grid.
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
        blocks: The visual blocks, in order. Audio needs none: its tokens count like text.
        positions_per_s: Temporal positions in a second (25; 2 in Qwen2.5-VL, 13 in Qwen3-Omni).
        behind: What the tokens that follow a block count on from.
        whole: Round positions in time down; Qwen3-Omni keeps their fractions.
    """
    kind: type[Any] = np.int64 if whole else np.float32
    out = np.empty((3, length), dtype=kind)
    cursor, following = 0, kind(0)  # next token, and the position that it gets
    for block in blocks:
        run = block.start - cursor
        out[:, cursor : block.start] = following + np.arange(run, dtype=kind)
        following += run
        t, h, w = block.grid[0], block.grid[1] // MERGE, block.grid[2] // MERGE
        # float32 and truncation, as the model rounds it
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
