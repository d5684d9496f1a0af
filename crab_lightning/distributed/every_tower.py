"""Makes every process run the same towers, also if its batch lacks some kind of media.

Sharded weights are gathered by collective calls, one for each layer that runs, and DDP waits for a gradient
of every trained weight. If the batch of one process has no sound, this process would not run the audio tower,
and the other processes would wait for it without end. So it runs the tower on the smallest possible input,
whose output is not used. The loss and all gradients stay the same.
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
        inputs: Model inputs by name.
        tokens: Number of positions that the input takes in a sequence.
        token: Token id at these positions.
        media_kind: Value of ``media_kind`` at these positions, for models that have this input.
    """

    inputs: Mapping[str, Tensor]
    tokens: int
    token: int
    media_kind: int = 0


def unread_patches(image: int, video: int, patch_px: int = PATCH_PX) -> dict[str, Unread]:
    """Return the smallest picture and video for the vision towers of Qwen; each gives one token.

    Args:
        image: Token id of the placeholder of pictures.
        video: Token id of the placeholder of videos.
        patch_px: Side of a patch in pixels.
    """
    patches = torch.zeros(MERGE * MERGE, 3 * TEMPORAL_PATCH * patch_px * patch_px)
    grid = torch.tensor([[1, MERGE, MERGE]])
    return {
        "pixel_values": Unread({"pixel_values": patches, "image_grid_thw": grid}, 1, image),
        "pixel_values_videos": Unread({"pixel_values_videos": patches, "video_grid_thw": grid}, 1, video),
    }


def with_unread(batch: Batch, added: Sequence[Unread]) -> Batch:
    """Return a batch with media added at new padding positions, which no token attends to or learns.

    In training the positions are at the end of the last row, and in generation at the beginning of the first
    row. So the added media are the last or the first of their kind, as the order of the inputs requires.

    Args:
        batch: A batch without these kinds of media, on its device.
        added: One input for each missing kind.

    Returns:
        The batch, with rows that are longer by the positions of the added media.
    """
    if not added:
        return batch
    inputs, left = dict(batch.inputs), batch.labels is None
    ids = inputs["input_ids"]
    count = sum(item.tokens for item in added)
    filler = int(ids[0, -1 if left else 0])  # any text token can be used, because padding is masked

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
