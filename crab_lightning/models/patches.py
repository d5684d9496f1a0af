"""The first layer of the video encoders of Qwen, computed as the matrix product that it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crab_lightning.compat import linear


class PatchProduct(nn.Conv3d):
    """A three-dimensional convolution that reads patches of exactly the size of its kernel.

    Each patch then gives one place, and the convolution is a product of two matrices, for which torch's
    convolution takes several times as long. Name, shape and gradients of the weights are those of the
    convolution. Input of any other size is convolved.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(P, E, 1, 1, 1)`` for P patches ``(P, C, T, H, W)``."""
        if input.shape[1:] != self.weight.shape[1:]:
            return super().forward(input)
        rows, weight = input.flatten(1), self.weight.flatten(1)
        learns = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
        product = F.linear if learns or torch.is_autocast_enabled(rows.device.type) else linear
        return product(rows, weight, self.bias)[..., None, None, None]


def multiply_patches(model: nn.Module) -> None:
    """Let a model's three-dimensional convolutions compute what they read patch by patch as products.

    The convolutions and their weights stay the same objects. Two-dimensional ones stay as they are: those of
    CLIP, SigLIP and DINO read whole frames, whose patches would have to be copied out first, which costs what
    the product saves.
    """
    for module in model.modules():
        if type(module) is nn.Conv3d and module.groups == 1 and module.padding == (0, 0, 0):
            module.__class__ = PatchProduct
