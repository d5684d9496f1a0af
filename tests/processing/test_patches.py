from __future__ import annotations

from itertools import product

import torch

from crab_lightning.processing.patches import IMAGE_MEAN, IMAGE_STD, patchify


def test_patch_holds_the_pixels_of_its_place_in_any_shape_and_memory_order() -> None:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (3, 56, 84, 3), dtype=torch.uint8, generator=generator)
    clip = stored.permute(0, 3, 1, 2)  # channels last in memory, wider than high, an odd number of frames
    patches, grid = patchify(clip)
    assert (grid, patches.shape) == ((2, 4, 6), (48, 1176))
    scale = 1.0 / (1 / 255)
    mean, std = ((torch.tensor(values) * scale).view(3, 1, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    places = product(range(2), range(2), range(3), range(2), range(2))  # pair, 2 x 2 block, place in it
    for patch, (pair, block_y, block_x, in_y, in_x) in zip(patches, places, strict=True):
        y, x = 14 * (2 * block_y + in_y), 14 * (2 * block_x + in_x)
        two = clip[[2 * pair, min(2 * pair + 1, 2)], :, y : y + 14, x : x + 14]
        assert torch.equal(patch, ((two.transpose(0, 1).float() - mean) / std).flatten())
