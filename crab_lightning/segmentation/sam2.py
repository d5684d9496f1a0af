"""SAM2.1, SAM3 and EdgeTAM through transformers: the default mask decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crab_lightning.segmentation.decoder import LastUsed, MaskRequest, check_requests, content_key
from crab_lightning.segmentation.weights import FolderModel, Loaded, load_folder

KINDS = {
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
}
"""``model_type`` in a folder's config -> class in transformers; all take the same boxes and points."""

Embedding = list[Tensor]
"""Feature maps of one image, ``(1, C, h, w)`` each, the one with the finest grid first."""


class Sam2Decoder(FolderModel):
    """The image predictor of SAM2.1, frozen; of SAM3 or EdgeTAM if the folder's ``model_type`` names these.

    The weights are loaded at the first use. Decoders with the same settings share the weights within a
    process. The embedding of an image is kept, so the encoder runs once for several prompts on one frame.

    Args:
        pretrained: Folder in the transformers layout, a hub name such as ``facebook/sam2.1-hiera-large``, or
            ``mini_sam2``, the tiny model that ships with the package and works only on Mini AV-UIE. Convert
            an official ``.pt`` file of SAM2.1 with ``python cli.py model sam2-convert``. ``facebook/sam3``
            has a licence of its own, and EdgeTAM needs the package timm.
        device: ``auto`` uses a GPU if there is one.
        dtype: ``float32``, or ``bfloat16``, which the released script uses.
        batch_size: Number of images that are encoded, and of masks that are decoded, at the same time.
        cache_size: Number of images whose embeddings are kept. One takes 18 MB in float32.
        logits: Return logits instead of bool masks, for evaluation protocols that score probabilities.

    Raises:
        ImportError: At the first use, if transformers is too old for EdgeTAM.
        OSError: At the first use, if there are no such weights.
        ValueError: If ``dtype``, ``batch_size`` or ``cache_size`` is out of range. At the first use, if
            weights of the model are missing, or the folder holds a model that takes no boxes and points.

    Sources: SAM2 arXiv:2408.00714, SAM3 arXiv:2511.16719, EdgeTAM arXiv:2501.07256.
    """

    # Official folders also hold the memory weights of the video predictor, which are not read here.
    #: Loads the weights of a folder once in each process.
    weights = cache(partial(load_folder, KINDS, "does not make masks from boxes and points"))

    def __init__(
        self,
        pretrained: str,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 8,
        cache_size: int = 16,
        logits: bool = False,
    ) -> None:
        super().__init__(pretrained, device, dtype)
        if batch_size < 1 or cache_size < 0:
            raise ValueError(
                f"batch_size is {batch_size} and cache_size is {cache_size}; batch_size must be at least 1 "
                "and cache_size at least 0"
            )
        self.batch_size = batch_size
        self.logits = logits
        self._embeddings = LastUsed(cache_size)

    @torch.no_grad()
    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        """Return one mask for each request, with the size of the request's image; see :class:`MaskDecoder`.

        Raises:
            OSError: If there are no such weights.
            ValueError: If a request has no usable image or prompt, or the weights do not fit.
        """
        check_requests(requests)
        loaded = self.load()
        masks: list[Tensor | None] = [None] * len(requests)
        for first in range(0, len(requests), self.batch_size):
            part = requests[first : first + self.batch_size]
            keys = [content_key(request.image) for request in part]

            def embed(new: list[int], part: Sequence[MaskRequest] = part) -> list[Embedding]:
                maps = loaded.model.get_image_embeddings(loaded.pixels([part[i].image for i in new]))
                return [[level[i : i + 1] for level in maps] for i in range(len(new))]

            embeddings = self._embeddings.fill(keys, embed)
            # The attention does not ignore padded points, so only prompts with the same form are batched.
            forms: dict[tuple[bool, int], list[int]] = defaultdict(list)
            for i, request in enumerate(part):
                forms[request.prompt.box_xyxy_px is not None, len(request.prompt.points_xy_px)].append(i)
            for members in forms.values():
                low = _low_masks(loaded, [part[i] for i in members], [embeddings[keys[i]] for i in members])
                for i, logits in zip(members, low, strict=True):
                    size = tuple(part[i].image.shape[-2:])
                    full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
                    masks[first + i] = full if self.logits else full > 0
        return [mask.cpu() for mask in masks if mask is not None]


def _low_masks(loaded: Loaded, requests: Sequence[MaskRequest], embeddings: Sequence[Embedding]) -> Tensor:
    """Return low-resolution logits ``(B, h, w)`` for prompts with the same number of points and boxes."""
    points, boxes = [], []
    for request in requests:
        height, width = request.image.shape[-2:]
        scale = torch.tensor([loaded.side / width, loaded.side / height])
        points.append(torch.tensor(request.prompt.points_xy_px, dtype=torch.float32).view(-1, 2) * scale)
        if request.prompt.box_xyxy_px is not None:
            boxes.append(torch.tensor(request.prompt.box_xyxy_px) * scale.repeat(2))
    inputs: dict[str, Any] = {}
    if len(points[0]):
        inputs["input_points"] = torch.stack(points)[:, None].to(loaded.device)
        inputs["input_labels"] = torch.ones(
            inputs["input_points"].shape[:3], dtype=torch.int64, device=loaded.device
        )
    if boxes:
        inputs["input_boxes"] = torch.stack(boxes)[:, None].to(loaded.device)
    levels = [torch.cat(level) for level in zip(*embeddings, strict=True)]
    out = loaded.model(image_embeddings=levels, multimask_output=False, **inputs)
    return out.pred_masks[:, 0, 0].float()  # type: ignore[no-any-return]
