"""From a read answer to a mask, and from masks to scores and files; shared by the spatial tasks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection

from crab_lightning.media import read_image, read_mask
from crab_lightning.metrics import MaskJF, NullMaskS
from crab_lightning.metrics.masks import MaskMetric
from crab_lightning.segmentation import MaskDecoder, MaskRequest, Prompt, prompt_of
from crab_lightning.structures import Sample
from crab_lightning.tasks.spatial_text import ABSENT, FRAME_PX, SpatialPrompt

MaskSize = Literal["frame", "native"]
_FRAME = (FRAME_PX, FRAME_PX)
_KEPT = 256


class MaskMaker:
    """Makes masks from the prompts of one task, each of them once; a pickled copy has no masks.

    Args:
        decoder: Makes masks.
        size: ``frame`` resizes the image to 224 pixels for the decoder and scores at this size, as the
            released scripts do. ``native`` keeps the size of the image, scales the prompt to it, and scores
            at the size of the mask file.
    """

    def __init__(self, decoder: MaskDecoder, size: MaskSize = "frame") -> None:
        if size not in ("frame", "native"):
            raise ValueError(f"mask_size is {size!r}; there are: frame, native")
        self.decoder = decoder
        self.size = size
        self.floor: dict[str, SpatialPrompt | None] | None = None
        """Sample id -> what the model answered when it heard another clip; ``None``: it was not asked."""
        self._made: OrderedDict[Hashable, Tensor] = OrderedDict()
        # One answer is scored by several collections in a row; its true mask is read once.
        self._true: tuple[str, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": OrderedDict(), "_true": None}

    def prepare(self, asked: Sequence[tuple[SpatialPrompt | None, Sample]]) -> None:
        """Make the masks of several answers in one call of the decoder."""
        wanted = {
            (sample.id, prompt): (sample, prompt)
            for prompt, sample in asked
            if prompt is not None and not prompt.absent and (sample.id, prompt) not in self._made
        }
        if not wanted:
            return
        pictures = {sample.id: self.picture(sample) for sample, _ in wanted.values()}
        requests = []
        for sample, prompt in wanted.values():
            picture = pictures[sample.id]
            requests.append(MaskRequest(picture, self.prompt(prompt, picture)))
        masks = self.decoder.decode(requests)
        if len(masks) != len(requests):
            raise ValueError(
                f"{type(self.decoder).__name__} made {len(masks)} masks of {len(requests)}; it must make each"
            )
        self._made |= dict(zip(wanted, masks, strict=True))
        while len(self._made) > max(_KEPT, len(wanted)):
            self._made.popitem(last=False)

    def mask(self, prompt: SpatialPrompt | None, sample: Sample, like: Tensor | None = None) -> Tensor:
        """Return the mask of an answer; empty where there is no answer or it says that nothing is there.

        Args:
            prompt: The read answer.
            sample: What was asked.
            like: The true mask, whose size is taken; without it the size of the image that the decoder sees.

        Returns:
            bool ``(H, W)``, or the decoder's logits.
        """
        if prompt is None or prompt.absent:
            size = tuple((self.picture(sample) if like is None else like).shape[-2:])
            return torch.zeros(size, dtype=torch.bool)
        self.prepare([(prompt, sample)])
        mask = self._made[sample.id, prompt]
        return mask if like is None else self.fitted(mask, like)

    @staticmethod
    def fitted(mask: Tensor, like: Tensor) -> Tensor:
        """Return a mask, bool or logits ``(H, W)``, at the size of another one."""
        if mask.shape == like.shape:
            return mask
        if mask.dtype == torch.bool:
            return F.interpolate(mask[None, None].byte(), like.shape, mode="nearest-exact")[0, 0] > 0
        return F.interpolate(mask[None, None], like.shape, mode="bilinear", align_corners=False)[0, 0]

    @staticmethod
    def prompt(answer: SpatialPrompt, picture: Tensor) -> Prompt:
        """Return an answer's box and points in pixels of a picture."""
        points = tuple((float(x), float(y)) for x, y in answer.points_xy_px)
        box = None if answer.box_xyxy_px is None else _floats(answer.box_xyxy_px)
        height, width = picture.shape[-2:]
        return Prompt(box, points).scaled(_FRAME, (height, width))

    def true_prompt(self, sample: Sample) -> SpatialPrompt:
        """Return box and points of the true mask, as they are taught (paper, eq. 1).

        Raises:
            FileNotFoundError: If there is no mask file.
        """
        file = find_mask(sample)
        prompt = prompt_of(
            (self.truth(sample) if file is None else true_mask(file, sample, FRAME_PX)).numpy()
        )
        if prompt is None or prompt.box_xyxy_px is None:
            return SpatialPrompt(absent=True)
        x1, y1, x2, y2 = (int(side) for side in prompt.box_xyxy_px)
        return SpatialPrompt((x1, y1, x2, y2), tuple((int(x), int(y)) for x, y in prompt.points_xy_px))

    def truth(self, sample: Sample) -> Tensor:
        """Return the true mask, bool ``(H, W)``; empty where the described object does not exist.

        Raises:
            FileNotFoundError: If there is no mask file.
        """
        if is_null(sample):
            return torch.zeros(tuple(self.picture(sample).shape[-2:]), dtype=torch.bool)
        found = find_mask(sample)
        if found is None:
            looked = " or ".join(map(str, sample.fields.get("mask_candidates", ()))) or "a labels_rgb folder"
            raise FileNotFoundError(
                f"{sample.id} (row {sample.row} of {sample.dataset}): there is no mask at {looked}. Fetch "
                "the masks of the dataset, or leave mask_decoder out of the task to score boxes alone."
            )
        if self._true is None or self._true[0] != sample.id:
            self._true = sample.id, true_mask(found, sample, FRAME_PX if self.size == "frame" else None)
        return self._true[1]

    def picture(self, sample: Sample) -> Tensor:
        """Return the image that the decoder sees, uint8 ``(3, H, W)``."""
        picture = read_image(sample.images[0], None)
        if self.size == "native" or tuple(picture.shape[-2:]) == _FRAME:
            return picture
        # Lanczos, as the released script; the language model saw the bicubic stretch.
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(_FRAME, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def load_decoder(decoder: MaskDecoder) -> None:
    """Load a decoder's weights now, if it has a method for that; else they load at the first mask.

    Raises:
        OSError: If they cannot be had.
        ImportError: If the decoder's package is absent.
    """
    load = getattr(decoder, "load", None)
    if load is not None:
        load()


def true_mask(file: Path, sample: Sample, size_px: int | None = FRAME_PX) -> Tensor:
    """Read a sample's mask file with the colours that its dataset states.

    Args:
        file: From :func:`find_mask`.
        sample: The sample.
        size_px: Side of the square; ``None`` keeps the size.

    Returns:
        bool ``(H, W)``.

    Raises:
        MediaError: If the file cannot be read.
    """
    return read_mask(file, size_px, colours=sample.fields.get("mask_colours"))


def is_null(sample: Sample) -> bool:
    """Tell whether nothing is to be segmented: the null subset of a test, a target text that says so."""
    subset = sample.fields.get("subset")
    return bool(subset == "test_n" or (sample.target is not None and ABSENT in sample.target))


def find_mask(sample: Sample) -> Path | None:
    """Return the mask file of a sample; ``None`` where there is none."""
    return next((Path(p) for p in sample.fields.get("mask_candidates", ()) if Path(p).is_file()), None)


def save_mask(mask: Tensor, sample: Sample, folder: Path) -> Path:
    """Write a mask as an 8-bit PNG (0 and 255) under the path that the dataset gives its true mask.

    Args:
        mask: bool or logits ``(H, W)``.
        sample: What was asked.
        folder: Folder of a run.

    Returns:
        ``masks/<dataset>/...``, for example ``masks/s4/AVS/v1s/<clip>/labels_rgb/0.png``.
    """
    places = sample.fields.get("mask_candidates") or (
        str(sample.images[0]).replace("/frames/", "/labels_rgb/"),
    )
    parts = Path(places[0]).with_suffix(".png").parts
    root = len(parts) - 1 - parts[::-1].index("AVUIE_2") if "AVUIE_2" in parts else None
    # Outside a data root: the clip's folder, labels_rgb, the file.
    inside = parts[-3:] if root is None else parts[root + 2 :]
    path = folder.joinpath("masks", sample.dataset, *inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    inside_object = mask if mask.dtype == torch.bool else mask > 0
    Image.fromarray(inside_object.numpy().astype(np.uint8) * 255).save(path, compress_level=1)
    return path


class _OneProtocol(MaskMetric):
    """A metric under one named protocol, fed frame by frame; keys begin with ``label``.

    Protocols with batches take each clip as one; ``..._frames_per_batch`` tells how many frames that was.
    """

    def __init__(self, protocol: str, label: str) -> None:
        super().__init__(protocol)
        self.label = label

    def add(self, clip: str, pred: Tensor, *target: Tensor) -> None:
        """Add one frame, bool or logits ``(H, W)``, and where there is one its true mask, bool ``(H, W)``."""
        if self.protocol.binary and pred.dtype != torch.bool:
            pred = pred > 0
        self.update(pred[None], *(true[None] for true in target), [clip])

    def compute(self) -> dict[str, Tensor]:
        """Return the metric's keys after the label."""
        return {f"{self.label}_{key}": value for key, value in super().compute().items()}  # type: ignore[safe-super]


class ProtocolJF(_OneProtocol, MaskJF):
    """J and F under one protocol."""


class CeilingJF(ProtocolJF):
    """J and F of the masks that true prompts give: what the mask decoder lets any model reach."""


class FloorJF(ProtocolJF):
    """J and F of answers to other sounds: what a model reaches that does not listen."""


class ProtocolS(_OneProtocol, NullMaskS):
    """S under one protocol."""


def label_of(protocol: str, size: MaskSize) -> str:
    """Name a protocol in metric keys; native sizes are told apart from the published ones."""
    return protocol if size == "frame" else f"{protocol}_native"


def scored_by(metrics: MetricCollection, kind: type) -> list[Any]:
    """Return the metrics of one kind in a collection."""
    return [metric for _, metric in metrics.items(keep_base=True, copy_state=False) if type(metric) is kind]


def _floats(box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])
