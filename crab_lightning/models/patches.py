"""Computes the first layer of Qwen's video encoders as a matrix product, which is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crab_lightning.compat import linear


class PatchProduct(nn.Conv3d):
    """A three-dimensional convolution, computed as a matrix product if each input has the kernel's size.

    Each patch then gives one output position, and the convolution is a product of two matrices. torch's
    convolution takes several times as long. Names, shapes and gradients of the weights are those of the
    convolution. Input of another size is convolved.
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
    """Make the three-dimensional convolutions of a model ``PatchProduct`` layers, in place.

    The convolutions and their weights stay the same objects. Two-dimensional convolutions are not changed:
    those of CLIP, SigLIP and DINO read whole frames. Copying the patches of a frame would take as long as the
    product saves.
    """
    for module in model.modules():
        if type(module) is nn.Conv3d and module.groups == 1 and module.padding == (0, 0, 0):
            module.__class__ = PatchProduct
