"""SAM2.1 through the ``sam2`` package, which reads Meta's own ``.pt`` files (optional)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crab_lightning.segmentation.decoder import LastUsed, MaskRequest, check_requests


class Sam2PackageDecoder:
    """The SAM2.1 image predictor of the ``sam2`` package, frozen.

    The package on PyPI is a third-party upload of Meta's code (Apache-2.0): read its code before you install
    it, or install Meta's repository. The import of this package initialises Hydra for the whole process.
    Images are encoded and prompts are decoded one by one.

    Args:
        checkpoint: An official ``.pt`` file.
        config: The package's config for that file, such as ``configs/sam2.1/sam2.1_hiera_l.yaml``.
        device: ``auto`` uses a GPU if there is one.
        cache_size: Number of images whose embeddings are kept; 0 keeps none.
        logits: Return logits instead of bool masks, for evaluation protocols that score probabilities.
        overrides: Hydra overrides of the config.

    Raises:
        ImportError: At the first use, if the package is not installed.
        FileNotFoundError: At the first use, if the checkpoint does not exist.
    """

    def __init__(
        self,
        checkpoint: str,
        config: str = "configs/sam2.1/sam2.1_hiera_l.yaml",
        device: str = "auto",
        cache_size: int = 16,
        logits: bool = False,
        overrides: Sequence[str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.device = device
        self.logits = logits
        self.overrides = tuple(overrides)
        self._embeddings = LastUsed(cache_size)

    def load(self) -> Any:
        """Load the weights now, and return the predictor; otherwise they are loaded for the first mask.

        Raises:
            ImportError: If the package is not installed.
            FileNotFoundError: If the checkpoint does not exist.
        """
        return _load(self.checkpoint, self.config, self.device, self.overrides)

    @torch.no_grad()
    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        """Return one mask for each request, with the size of the request's image; see :class:`MaskDecoder`.

        Raises:
            ImportError: If the package is not installed.
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If a request has no usable image or prompt.
        """
        check_requests(requests)
        predictor = self.load()
        return [self._mask(predictor, request) for request in requests]

    def _mask(self, predictor: Any, request: MaskRequest) -> Tensor:
        def embed(image: Tensor) -> Any:
            predictor.set_image(image.permute(1, 2, 0).numpy())
            return predictor._features

        predictor._features = self._embeddings.get(request.image, embed)
        predictor._orig_hw = [tuple(request.image.shape[-2:])]
        predictor._is_image_set, predictor._is_batch = True, False
        prompt = request.prompt
        points = np.array(prompt.points_xy_px, np.float32).reshape(-1, 2) if prompt.points_xy_px else None
        masks, _, _ = predictor.predict(
            point_coords=points,
            point_labels=None if points is None else np.ones(len(points), np.int32),
            box=None if prompt.box_xyxy_px is None else np.array(prompt.box_xyxy_px, np.float32),
            multimask_output=False,
            return_logits=True,
        )
        logits = torch.from_numpy(masks[0])
        return logits if self.logits else logits > 0


@cache
def _load(checkpoint: str, config: str, device: str, overrides: tuple[str, ...]) -> Any:
    """Load a predictor; a process loads each one only once."""
    try:
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor
    except ImportError as err:
        raise ImportError(
            "the mask decoder Sam2PackageDecoder needs the sam2 package: pip install 'crab_lightning[sam2]' "
            "(a third-party upload of Meta's code). Sam2Decoder works without it"
        ) from err
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"there is no SAM2 checkpoint at {checkpoint}; give an official .pt file")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_sam2(config, checkpoint, device=device, hydra_overrides_extra=list(overrides))
    model.requires_grad_(False)
    predictor = SAM2ImagePredictor(model)
    # The predictor assumes images of 1024 pixels here, although the model may have another size.
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor
