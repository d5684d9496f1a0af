"""Every tower runs on every process, whatever media its batch holds.

Sharded weights are gathered by collective calls, one for each layer that runs, and DDP waits for a gradient
of every trained weight. A process whose batch has no sound would leave the audio tower out, and the others
would wait for it for ever. So it runs the tower on the smallest input there is, whose output nobody reads:
the loss and every gradient stay what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crab_lightning.processing.base import IGNORED_LABEL
from crab_lightning.processing.geometry import MERGE, PATCH_PX, TEMPORAL_PATCH
from crab_lightning.processing.positions import PAD_POSITION
from crab_lightning.structures import Batch


@dataclass(frozen=True)
class Unread:
    """The smallest input of one kind of media.

    Args:
        inputs: Its model inputs.
        tokens: Places that it takes in a sequence.
        token: What stands at those places.
        media_kind: What ``media_kind`` says there, in paradigms that have it.
    """

    inputs: Mapping[str, Tensor]
    tokens: int
    token: int
    media_kind: int = 0


def unread_patches(names: tuple[str, str], token: int, patch_px: int = PATCH_PX) -> Unread:
    """Return the smallest picture of the vision towers of Qwen: one merged token.

    Args:
        names: Names of the inputs that hold patches and grid.
        token: Its placeholder.
        patch_px: Side of a patch.
    """
    patches = torch.zeros(MERGE * MERGE, 3 * TEMPORAL_PATCH * patch_px * patch_px)
    return Unread({names[0]: patches, names[1]: torch.tensor([[1, MERGE, MERGE]])}, 1, token)


def with_unread(batch: Batch, added: Sequence[Unread]) -> Batch:
    """Add media that nothing attends to or learns from, at padding of its own.

    It stands behind the last row in training and before the first in generation, where padding stands, so it
    is also the last or the first of its kind, as the order of the media asks.

    Args:
        batch: A batch without these kinds of media, on its device.
        added: One of each kind that is missing.

    Returns:
        The batch, longer by the places of what was added.
    """
    if not added:
        return batch
    inputs, left = dict(batch.inputs), batch.labels is None
    ids = inputs["input_ids"]
    count = sum(item.tokens for item in added)
    filler = int(ids[0, -1 if left else 0])  # a prompt begins and ends with text; any will do, it is masked

    def widened(rows: Tensor, value: int) -> Tensor:
        more = rows.new_full((*rows.shape[:-1], count), value)
        return torch.cat((more, rows) if left else (rows, more), dim=-1)

    def marked(rows: Tensor, values: Sequence[int]) -> Tensor:
        row, first = (0, 0) if left else (len(ids) - 1, ids.shape[1])
        rows[row, first : first + count] = rows.new_tensor(values)
        return rows

    tokens = [item.token for item in added for _ in range(item.tokens)]
    inputs["input_ids"] = marked(widened(ids, filler), tokens)
    inputs["attention_mask"] = widened(inputs["attention_mask"], 0)
    if "position_ids" in inputs:
        inputs["position_ids"] = widened(inputs["position_ids"], PAD_POSITION)
    if "media_kind" in inputs:
        kinds = [item.media_kind for item in added for _ in range(item.tokens)]
        inputs["media_kind"] = marked(widened(inputs["media_kind"], 0), kinds)
    for item in added:
        inputs |= {name: value.to(ids.device) for name, value in item.inputs.items()}
    labels = None if batch.labels is None else widened(batch.labels, IGNORED_LABEL)
    return replace(batch, inputs=inputs, labels=labels)
