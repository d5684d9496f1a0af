"""The vision model of CLIP as a vision encoder (arXiv:2103.00020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crab_lightning.encoders.base import CLIP_MEAN, CLIP_STD, normalised
from crab_lightning.encoders.transformers_encoder import PatchVision


class ClipVision(PatchVision):
    """The patch features of CLIP's last layer but one, without the class token.

    Args:
        pretrained: Folder or hub name of a CLIP model; only its vision model is used.
    """

    families = ("clip", "clip_vision_model")
    part = ("vision_config",)
    library_class = "CLIPVisionModel"

    @property
    def side_px(self) -> int:
        """Side of the frames, in pixels."""
        return int(self.config.image_size)

    def features(self, tower: Any, frames: Tensor, counts: Tensor) -> Tensor:
        """Return the features, ``(F, N, E)``."""
        pixels = normalised(frames, CLIP_MEAN, CLIP_STD, tower.dtype)
        states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        found: Tensor = states[-2][:, 1:]
        return found
