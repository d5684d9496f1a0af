"""DINOv2 and DINOv3 ViTs as vision encoders (arXiv:2304.07193, arXiv:2508.10104)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crab_lightning.encoders.base import Colours, normalised
from crab_lightning.encoders.transformers_encoder import PatchVision

_MEAN: Colours = (0.485, 0.456, 0.406)
_STD: Colours = (0.229, 0.224, 0.225)


class DinoVision(PatchVision):
    """The patch features of the last layer of a DINO ViT, without class and register tokens.

    Args:
        pretrained: Folder or hub name of a DINOv2 (with or without registers) or DINOv3 ViT.
        size_px: Side of the frames in pixels, a multiple of the side of a patch.
        mean: Mean of each colour in the model's training, in [0, 1]. The default is that of ImageNet, which
            all models but the satellite models have.
        std: Standard deviation of each colour in the model's training.
    """

    families = ("dinov2", "dinov2_with_registers", "dinov3_vit")

    def __init__(
        self, pretrained: str, size_px: int = 224, mean: Colours = _MEAN, std: Colours = _STD
    ) -> None:
        super().__init__(pretrained)
        self.size_px, self.mean, self.std = size_px, mean, std

    def kind(self) -> Any:
        """Return the class of transformers."""
        from transformers import MODEL_MAPPING

        return MODEL_MAPPING[type(self.config)]

    @property
    def side_px(self) -> int:
        """Side of the frames, in pixels.

        Raises:
            ValueError: If ``size_px`` is not a multiple of the side of a patch.
        """
        patch = int(self.config.patch_size)
        if self.size_px % patch or self.size_px < patch:
            raise ValueError(
                f"model.visual_encoder size_px is {self.size_px}; {self.pretrained} reads multiples of "
                f"{patch} px"
            )
        return self.size_px

    def features(self, tower: Any, frames: Tensor, counts: Tensor) -> Tensor:
        """Return the features, ``(F, N, E)``."""
        states: Tensor = tower(pixel_values=normalised(frames, self.mean, self.std, tower.dtype))[0]
        return states[:, 1 + getattr(self.config, "num_register_tokens", 0) :]
