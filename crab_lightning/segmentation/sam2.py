"""SAM2.1, SAM3 and EdgeTAM through transformers: the default mask decoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crab_lightning.compat import load_with_info
from crab_lightning.segmentation.decoder import LastUsed, MaskRequest, check_request, content_key

MINI = "mini_sam2"
"""Name of the tiny model that ships with the package and knows Mini AV-UIE alone."""

KINDS = {
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
}
"""``model_type`` of a folder's config -> class in transformers. All take the same boxes and points."""

Embedding = list[Tensor]
"""Feature maps of one image, finest first, ``(1, C, h, w)`` each."""


class Sam2Decoder:
    """Image predictor of SAM2.1, frozen; of SAM3 or EdgeTAM where the folder's ``model_type`` says so.

    The weights are loaded at the first use, and decoders with the same settings share them within a process.
    The embedding of an image is kept, so several prompts for one frame need one pass of the encoder.

    Args:
        pretrained: Folder in the transformers layout, a hub name such as ``facebook/sam2.1-hiera-large``, or
            ``mini_sam2``, the tiny model that ships with the package and works only on Mini AV-UIE. An
            official
            ``.pt`` file of SAM2.1 is converted by ``python cli.py model sam2-convert``. ``facebook/sam3`` is
            under SAM's own licence, and EdgeTAM needs the package timm.
        device: ``auto`` uses a GPU if there is one.
        dtype: ``float32``, or ``bfloat16`` as the released script computes.
        batch_size: Number of images that are encoded, and of masks that are decoded, at the same time.
        cache_size: Number of images whose embeddings are kept. One takes 18 MB in float32.
        logits: Return logits instead of bool masks, for protocols that score probabilities.

    Raises:
        FileNotFoundError: At the first use, if there are no such weights.
        ValueError: At the first use, if the folder's weights do not fill the model, or the folder holds a
            model that takes no boxes and points.

    Sources: SAM2 arXiv:2408.00714, SAM3 arXiv:2511.16719, EdgeTAM arXiv:2501.07256.
    """

    def __init__(
        self,
        pretrained: str,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 8,
        cache_size: int = 16,
        logits: bool = False,
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}; there are: float32, bfloat16")
        if batch_size < 1 or cache_size < 0:
            raise ValueError(
                f"batch_size is {batch_size} and cache_size {cache_size}; they begin at 1 and at 0"
            )
        self.pretrained = pretrained
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.cache_size = cache_size
        self.logits = logits
        self._embeddings = LastUsed(cache_size)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_embeddings": LastUsed(self.cache_size)}

    def load(self) -> None:
        """Load the weights, which else happens at the first mask.

        Raises:
            OSError: If there are no such weights.
            ValueError: If the folder's weights do not fill the model.
        """
        _load(self.pretrained, self.device, self.dtype)

    @property
    def cache_hits(self) -> float:
        """Share of requests whose image was embedded before."""
        total = self._embeddings.hits + self._embeddings.misses
        return self._embeddings.hits / total if total else 0.0

    @torch.no_grad()
    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        """Return one mask a request, at its image's size; see :class:`MaskDecoder`.

        Raises:
            ValueError: If a request has no usable image or prompt.
        """
        for request in requests:
            check_request(request)
        loaded = _load(self.pretrained, self.device, self.dtype)
        masks: list[Tensor | None] = [None] * len(requests)
        for first in range(0, len(requests), self.batch_size):
            part = requests[first : first + self.batch_size]
            keys = [content_key(request.image) for request in part]

            def embed(new: list[int], part: Sequence[MaskRequest] = part) -> list[Embedding]:
                return loaded.embed([part[i].image for i in new])

            embeddings = self._embeddings.fill(keys, embed)
            # A padded point is not ignored by the attention, so only prompts of one form go together.
            forms: dict[tuple[bool, int], list[int]] = defaultdict(list)
            for i, request in enumerate(part):
                forms[request.prompt.box_xyxy_px is not None, len(request.prompt.points_xy_px)].append(i)
            for members in forms.values():
                low = loaded.masks([part[i] for i in members], [embeddings[keys[i]] for i in members])
                for i, logits in zip(members, low, strict=True):
                    size = tuple(part[i].image.shape[-2:])
                    full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
                    masks[first + i] = full if self.logits else full > 0
        return [mask.cpu() for mask in masks if mask is not None]


class _Loaded:
    """Weights on their device, and how they want their input."""

    def __init__(self, model: Any, image_processor: Any, device: str) -> None:
        self.model = model
        self.device = device
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.mean = torch.tensor(image_processor.image_mean, device=device)[:, None, None]
        self.std = torch.tensor(image_processor.image_std, device=device)[:, None, None]

    def embed(self, images: Sequence[Tensor]) -> list[Embedding]:
        """Return the embeddings of some images."""
        pixels = torch.stack([self._pixels(image) for image in images]).to(self.model.dtype)
        maps = self.model.get_image_embeddings(pixels)
        return [[level[i : i + 1] for level in maps] for i in range(len(images))]

    def _pixels(self, image: Tensor) -> Tensor:
        # As Meta's code: to float first, then stretched. transformers rounds to bytes after stretching.
        floats = image.to(self.device).float()[None] / 255
        square = F.interpolate(
            floats, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        return (square[0] - self.mean) / self.std

    def masks(self, requests: Sequence[MaskRequest], embeddings: Sequence[Embedding]) -> Tensor:
        """Return low-resolution logits ``(B, h, w)`` of prompts that all have the same form."""
        points, boxes = [], []
        for request in requests:
            height, width = request.image.shape[-2:]
            scale = torch.tensor([self.side / width, self.side / height])
            points.append(torch.tensor(request.prompt.points_xy_px, dtype=torch.float32).view(-1, 2) * scale)
            if request.prompt.box_xyxy_px is not None:
                boxes.append(torch.tensor(request.prompt.box_xyxy_px) * scale.repeat(2))
        inputs: dict[str, Any] = {}
        if len(points[0]):
            inputs["input_points"] = torch.stack(points)[:, None].to(self.device)
            inputs["input_labels"] = torch.ones(inputs["input_points"].shape[:3], dtype=torch.int64).to(
                self.device
            )
        if boxes:
            inputs["input_boxes"] = torch.stack(boxes)[:, None].to(self.device)
        levels = [torch.cat(level) for level in zip(*embeddings, strict=True)]
        out = self.model(image_embeddings=levels, multimask_output=False, **inputs)
        return out.pred_masks[:, 0, 0].float()  # type: ignore[no-any-return]


@cache
def _load(pretrained: str, device: str, dtype: str) -> _Loaded:
    """Load the image predictor once in a process."""
    import transformers

    name = _class_name(find_weights(pretrained))
    # Official folders also hold the video predictor's memory; the image predictor leaves it alone.
    loaded, missing = load_folder(getattr(transformers, name), pretrained, device, dtype)
    if missing:
        raise ValueError(
            f"the weights at {pretrained} leave {len(missing)} tensors of {name} unset, first "
            f"{missing[0]!r}; they are those of another model"
        )
    return loaded


def _class_name(where: str) -> str:
    """Return the class for the weights of a folder or hub name.

    Raises:
        ValueError: If they are of another kind of model.
    """
    from transformers import PreTrainedConfig

    found, _ = PreTrainedConfig.get_config_dict(where)
    kind = found.get("model_type")
    if kind not in KINDS:
        raise ValueError(
            f"{where} holds a model of type {kind!r}, which does not make masks from boxes and points;"
            f" known types: "
            f"{', '.join(KINDS)}"
        )
    return KINDS[kind]


def load_folder(kind: Any, pretrained: str, device: str, dtype: str) -> tuple[_Loaded, list[str]]:
    """Load a frozen decoder and say which of its tensors the weights leave unset.

    Args:
        kind: ``Sam2Model``, ``Sam2VideoModel`` or a class like them.
        pretrained: As in :class:`Sam2Decoder`.
        device: ``auto`` uses a GPU if there is one.
        dtype: Name of a torch dtype.

    Raises:
        FileNotFoundError: If there are no such weights.
    """
    from transformers import AutoImageProcessor
    from transformers.utils import logging as transformers_logging

    where = find_weights(pretrained)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # both kinds read one folder, and what is missing is returned
    try:
        model, report = load_with_info(kind, where, dtype=getattr(torch, dtype))
        images = AutoImageProcessor.from_pretrained(where)
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    model.requires_grad_(False)
    return _Loaded(model.to(device).eval(), images, device), missing


def find_weights(pretrained: str) -> str:
    """Return the folder or hub name that is meant: a folder, the shipped model's name, or a hub name.

    Raises:
        FileNotFoundError: If it can be none of them.
    """
    folder = Path(pretrained)
    if folder.is_dir():
        return pretrained
    if pretrained == MINI:
        return str(Path(__file__).parents[1] / "assets" / MINI)
    if folder.is_file():
        raise FileNotFoundError(
            f"{pretrained} is a file. Convert it first: python cli.py model sam2-convert --checkpoint "
            f"{pretrained} --out DIR"
        )
    if folder.is_absolute() or pretrained.count("/") != 1:
        raise FileNotFoundError(
            f"no SAM2 weights at {pretrained}: there is no such folder. Give a folder in the transformers "
            f"layout, a hub name such as facebook/sam2.1-hiera-large, or {MINI} for the shipped toy model"
        )
    return pretrained
