"""Loads segmentation models from folders in the transformers layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from packaging.version import Version
from torch import Tensor
from torch.nn import functional as F

from crab_lightning.compat import load_with_info
from crab_lightning.files import HUB_NAME

MINI = "mini_sam2"
"""Name of the tiny model that ships with the package and works only on Mini AV-UIE."""

# transformers 5.17 to 5.24 do not remove this prefix from the tensors of facebook/sam3 for this class.
_RENAMED = {"Sam3TrackerModel": {r"^tracker_model\.": ""}}


class Loaded:
    """A loaded model and the settings for its input.

    Args:
        model: The frozen model.
        image_processor: Object with the mean and standard deviation of pixel values.
        side: Height and width, in pixels, of the pictures that the model reads.
        device: Device of the model.
        tokenizer: Tokenizer for names; ``None`` if the model reads no names.
    """

    def __init__(
        self, model: Any, image_processor: Any, side: int, device: str, tokenizer: Any = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.side = side
        self.device = device
        self.mean = torch.tensor(image_processor.image_mean, device=device)[:, None, None]
        self.std = torch.tensor(image_processor.image_std, device=device)[:, None, None]

    def pixels(self, images: Sequence[Tensor]) -> Tensor:
        """Return uint8 pictures ``(3, H, W)`` of any sizes as one batch ``(B, 3, side, side)``."""
        return torch.stack([self._pixels(image) for image in images]).to(self.model.dtype)

    def _pixels(self, image: Tensor) -> Tensor:
        # Convert to float and then resize, as Meta's code does. transformers rounds to bytes after resizing.
        floats = image.to(self.device).float()[None] / 255
        square = F.interpolate(
            floats, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        return (square[0] - self.mean) / self.std


class FolderModel:
    """A frozen segmentation model from a folder; it is loaded at the first use and shared within a process.

    Args:
        pretrained: Folder in the transformers layout, hub name, or ``mini_sam2``.
        device: ``auto`` uses a GPU if there is one.
        dtype: ``float32`` or ``bfloat16``.

    Raises:
        ValueError: If ``dtype`` is another type.
    """

    weights: ClassVar[Any]
    """Function that loads the weights for ``pretrained``, ``device`` and ``dtype``, once in a process."""

    def __init__(self, pretrained: str, device: str = "auto", dtype: str = "float32") -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}; it must be float32 or bfloat16")
        self.pretrained, self.device, self.dtype = pretrained, device, dtype

    def load(self) -> Loaded:
        """Load the weights, if they are not loaded yet, and return them.

        Raises:
            OSError: If there are no such weights.
            ImportError: If transformers is too old for this kind of model.
            ValueError: If they are weights of another kind of model, or some are missing.
        """
        loaded: Loaded = type(self).weights(self.pretrained, self.device, self.dtype)
        return loaded


def load_folder(
    kinds: Mapping[str, str], lacking: str, pretrained: str, device: str, dtype: str, *, named: bool = False
) -> Loaded:
    """Load a frozen model from a folder or the hub.

    Args:
        kinds: ``model_type`` in a config -> class of transformers that reads the weights.
        lacking: Text for the error message that says what a model of another type does not do.
        pretrained: Folder, hub name or ``mini_sam2``.
        device: ``auto`` uses a GPU if there is one.
        dtype: Name of a torch dtype.
        named: Also load the tokenizer for names.

    Raises:
        OSError: If there are no such weights.
        ImportError: If transformers is too old for this kind of model.
        ValueError: If they are weights of another kind of model, or some are missing.
    """
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig
    from transformers.utils import logging as transformers_logging

    where = find_weights(pretrained)
    found, _ = PreTrainedConfig.get_config_dict(where)
    kind = str(found.get("model_type"))
    if kind not in kinds:
        raise ValueError(
            f"{where} contains a model of type {kind!r}, which {lacking}; known types: {', '.join(kinds)}"
        )
    if kind.startswith("edgetam") and Version(transformers.__version__) < Version("5.20"):
        raise ImportError(
            f"{where} contains EdgeTAM, which transformers {transformers.__version__} cannot load without a "
            "config from the hub. Run pip install 'transformers>=5.20'"
        )
    name = kinds[kind]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # unused weights are normal here; missing ones raise below
    try:
        model, report = load_with_info(
            getattr(transformers, name), where, dtype=getattr(torch, dtype), key_mapping=_RENAMED.get(name)
        )
        images = AutoImageProcessor.from_pretrained(where)
    finally:
        transformers_logging.set_verbosity(level)
    _check_filled(name, pretrained, sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])))
    model.requires_grad_(False)
    config = model.config
    detector = getattr(config, "detector_config", config)
    sized = getattr(config, "prompt_encoder_config", None) or detector.vision_config
    tokenizer = AutoTokenizer.from_pretrained(where) if named else None
    return Loaded(model.to(device).eval(), images, int(sized.image_size), device, tokenizer)


def _check_filled(name: str, pretrained: str, missing: Sequence[str]) -> None:
    """Raise ``ValueError`` if weights of a model are missing."""
    if memory := [tensor for tensor in missing if tensor.startswith(("memory_", "object_pointer"))]:
        raise ValueError(
            f"the SAM2 weights at {pretrained} can segment only pictures (or one moment of a video, with "
            f"--at_s): {len(memory)} tensors of the video predictor's memory are missing (first: "
            f"{memory[0]!r}). Use an official SAM2.1 model, such as facebook/sam2.1-hiera-tiny, or convert "
            "an official .pt file with `python cli.py model sam2-convert`"
        )
    if missing:
        raise ValueError(
            f"the weights at {pretrained} lack {len(missing)} tensors of {name} (first: {missing[0]!r}); "
            "they belong to another model"
        )


def find_weights(pretrained: str) -> str:
    """Return the folder or hub name of the weights; the name of the shipped model becomes its folder.

    Raises:
        FileNotFoundError: If ``pretrained`` is a file, or neither a folder nor a possible hub name.
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
    if not HUB_NAME.fullmatch(pretrained):
        raise FileNotFoundError(
            f"there are no weights of SAM2, SAM3 or EdgeTAM at {pretrained}: there is no such folder. "
            "Give a folder in the transformers layout, a hub name such as facebook/sam2.1-hiera-large or "
            f"facebook/sam3, or {MINI} for the tiny shipped model, which reads only boxes and points"
        )
    return pretrained
