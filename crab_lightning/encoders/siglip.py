"""SigLIP and SigLIP 2 as vision encoders (arXiv:2303.15343, arXiv:2502.14786)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crab_lightning.encoders.base import Colours, normalised
from crab_lightning.encoders.transformers_encoder import PatchVision

_HALF: Colours = (0.5, 0.5, 0.5)


class SiglipVision(PatchVision):
    """The patch features of the last layer of SigLIP or SigLIP 2, which have no class token.

    SigLIP 2 models of a fixed size are published with the ``model_type`` ``siglip``, and those of variable
    size (NaFlex) with ``siglip2``. This class reads both.

    Args:
        pretrained: Folder or hub name of a SigLIP model; only its vision model is used.
        size_px: Side of the frames in pixels, only for NaFlex models. When left out, it is the largest square
            that has no more patches than the model was trained on (256 px).
    """

    families = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")
    part = ("vision_config",)

    def __init__(self, pretrained: str, size_px: int | None = None) -> None:
        super().__init__(pretrained)
        self.size_px = size_px

    @property
    def _free(self) -> bool:
        return str(self.config.model_type).startswith("siglip2")

    def kind(self) -> Any:
        """Return the class of transformers."""
        from transformers import Siglip2VisionModel, SiglipVisionModel

        return Siglip2VisionModel if self._free else SiglipVisionModel

    @property
    def side_px(self) -> int:
        """Side of the frames, in pixels.

        Raises:
            ValueError: If ``size_px`` is another size than that of a model of fixed size, or is not a
                multiple of the side of a patch.
        """
        patch = int(self.config.patch_size)
        own = math.isqrt(self.config.num_patches) * patch if self._free else int(self.config.image_size)
        side = own if self.size_px is None else self.size_px
        if (side != own and not self._free) or side % patch or side < patch:
            allowed = f"a multiple of {patch}" if self._free else f"{own}, or left out"
            raise ValueError(f"model.visual_encoder size_px is {side}; for {self.pretrained} it is {allowed}")
        return side

    def features(self, tower: Any, frames: Tensor, counts: Tensor) -> Tensor:
        """Return the features, ``(F, N, E)``."""
        pixels = normalised(frames, _HALF, _HALF, tower.dtype)
        if not self._free:
            found: Tensor = tower(pixel_values=pixels).last_hidden_state
            return found
        patch = int(self.config.patch_size)
        rows = pixels.shape[-1] // patch
        # The values of a patch are in the order of SigLIP's image processor: rows, columns, colours.
        cells = functional.unfold(pixels, patch, stride=patch).transpose(1, 2)
        cells = cells.view(len(cells), -1, 3, patch * patch).transpose(-1, -2).flatten(-2)
        mask = torch.ones(cells.shape[:2], dtype=torch.long, device=cells.device)
        # These stay on the CPU, because the model loops over them.
        shapes = torch.tensor([[rows, rows]]).expand(len(cells), -1)
        states: Tensor = tower(
            pixel_values=cells, pixel_attention_mask=mask, spatial_shapes=shapes
        ).last_hidden_state
        return states
