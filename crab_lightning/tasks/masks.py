"""Makes masks from answers, scores them and writes them to files, for the tasks with boxes and points."""

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
    """Makes the masks of one task's answers and keeps them; a pickled copy has no masks.

    Args:
        decoder: The mask decoder.
        size: ``frame`` resizes the image to 224 pixels for the decoder and scores at this size, as the
            released scripts do. ``native`` keeps the size of the image, scales the prompt to it, and scores
            at the size of the mask file.

    Raises:
        ValueError: If ``size`` is unknown.
    """

    def __init__(self, decoder: MaskDecoder, size: MaskSize = "frame") -> None:
        if size not in ("frame", "native"):
            raise ValueError(f"mask_size is {size!r}; it must be frame or native")
        self.decoder = decoder
        self.size = size
        self.floor: dict[str, SpatialPrompt | None] | None = None
        """Sample id -> answer of the model with the sound of another clip; ``None`` without such answers."""
        self._made: OrderedDict[Hashable, Tensor] = OrderedDict()
        # Several metric collections score the same answer, so the last true mask is kept.
        self._true: tuple[str, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": OrderedDict(), "_true": None}

    def prepare(self, asked: Sequence[tuple[SpatialPrompt | None, Sample]]) -> None:
        """Make the masks of several answers in one call of the decoder.

        Raises:
            ValueError: If the decoder returns another number of masks.
        """
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
                f"{type(self.decoder).__name__} returned {len(masks)} masks for {len(requests)} requests; it "
                "must return one for each"
            )
        self._made |= dict(zip(wanted, masks, strict=True))
        while len(self._made) > max(_KEPT, len(wanted)):
            self._made.popitem(last=False)

    def mask(self, prompt: SpatialPrompt | None, sample: Sample, like: Tensor | None = None) -> Tensor:
        """Return the mask of an answer; it is empty without an answer or if the object is absent.

        Args:
            prompt: The answer; ``None`` if it could not be read.
            sample: The sample.
            like: A mask with the size of the result. When left out, the size is that of the decoder's image.

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
        """Return a mask, bool or logits ``(H, W)``, resized to the size of another mask."""
        if mask.shape == like.shape:
            return mask
        if mask.dtype == torch.bool:
            return F.interpolate(mask[None, None].byte(), like.shape, mode="nearest-exact")[0, 0] > 0
        return F.interpolate(mask[None, None], like.shape, mode="bilinear", align_corners=False)[0, 0]

    @staticmethod
    def prompt(answer: SpatialPrompt, picture: Tensor) -> Prompt:
        """Return the box and points of an answer in pixels of a picture ``(3, H, W)``."""
        height, width = picture.shape[-2:]
        return Prompt(answer.box_xyxy_px, answer.points_xy_px).scaled(_FRAME, (height, width))

    def true_prompt(self, sample: Sample) -> SpatialPrompt:
        """Return the box and points that the model learns for the true mask (paper, eq. 1).

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
        """Return the true mask, bool ``(H, W)``; it is empty if the described object does not exist.

        Raises:
            FileNotFoundError: If there is no mask file.
        """
        if is_null(sample):
            return torch.zeros(tuple(self.picture(sample).shape[-2:]), dtype=torch.bool)
        found = find_mask(sample)
        if found is None:
            looked = " or ".join(map(str, sample.fields.get("mask_candidates", ())))
            if not looked and sample.images and "/frames/" not in str(sample.images[0]):
                raise FileNotFoundError(
                    f"{sample.id} (row {sample.row} of {sample.dataset}) names no mask. Masks are needed in"
                    " rows for validation and test: add the key `mask` with the path of a picture, or leave"
                    " mask_decoder out of the task to score only boxes."
                )
            looked = looked or "a labels_rgb folder"
            raise FileNotFoundError(
                f"{sample.id} (row {sample.row} of {sample.dataset}): there is no mask at {looked}. Add the "
                "masks of the dataset, or leave mask_decoder out of the task to score only boxes."
            )
        if self._true is None or self._true[0] != sample.id:
            self._true = sample.id, true_mask(found, sample, FRAME_PX if self.size == "frame" else None)
        return self._true[1]

    def picture(self, sample: Sample) -> Tensor:
        """Return the image that the decoder sees, uint8 ``(3, H, W)``."""
        picture = read_image(sample.images[0], None)
        if self.size == "native" or tuple(picture.shape[-2:]) == _FRAME:
            return picture
        # The released script resizes with Lanczos here, but with bicubic for the language model.
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(_FRAME, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def load_decoder(decoder: MaskDecoder) -> None:
    """Load the weights of a decoder now, if it has a method ``load``.

    Raises:
        OSError: If the weights cannot be loaded.
        ImportError: If the package of the decoder is not installed.
    """
    load = getattr(decoder, "load", None)
    if load is not None:
        load()


def true_mask(file: Path, sample: Sample, size_px: int | None = FRAME_PX) -> Tensor:
    """Read the mask file of a sample; the dataset's ``mask`` decides which colours are the object.

    Args:
        file: The file that :func:`find_mask` found.
        sample: The sample.
        size_px: Height and width of the result in pixels; ``None`` keeps the size of the file.

    Returns:
        bool ``(H, W)``.

    Raises:
        MediaError: If the file cannot be read.
    """
    return read_mask(file, size_px, colours=sample.fields.get("mask_colours"))


def is_null(sample: Sample) -> bool:
    """Return whether no object is to be segmented, by the subset or the target text of the sample."""
    subset = sample.fields.get("subset")
    return bool(subset == "test_n" or (sample.target is not None and ABSENT in sample.target))


def find_mask(sample: Sample) -> Path | None:
    """Return the mask file of a sample; ``None`` if there is none."""
    return next((Path(p) for p in sample.fields.get("mask_candidates", ()) if Path(p).is_file()), None)


def save_mask(mask: Tensor, sample: Sample, folder: Path) -> Path:
    """Write a mask as an 8-bit PNG file (0 and 255); the path is like that of the true mask.

    Args:
        mask: bool or logits ``(H, W)``.
        sample: The sample.
        folder: Folder of the run.

    Returns:
        The path ``<folder>/masks/<dataset>/...``, which ends for example with
        ``masks/s4/AVS/v1s/<clip>/labels_rgb/0.png``.
    """
    places = sample.fields.get("mask_candidates") or (
        str(sample.images[0]).replace("/frames/", "/labels_rgb/"),
    )
    parts = Path(places[0]).with_suffix(".png").parts
    root = len(parts) - 1 - parts[::-1].index("AVUIE_2") if "AVUIE_2" in parts else None
    # Outside AVUIE_2, the last three parts are used: the clip's folder, labels_rgb, the file.
    inside = parts[-3:] if root is None else parts[root + 2 :]
    path = folder.joinpath("masks", sample.dataset, *inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    inside_object = mask if mask.dtype == torch.bool else mask > 0
    Image.fromarray(inside_object.numpy().astype(np.uint8) * 255).save(path, compress_level=1)
    return path


class _OneProtocol(MaskMetric):
    """A mask metric under one evaluation protocol, to which single frames are added.

    All keys begin with ``label``. In protocols with batches the frames of a clip are a batch; the key
    ``..._frames_per_batch`` gives the number of frames.
    """

    def __init__(self, protocol: str, label: str) -> None:
        super().__init__(protocol)
        self.label = label

    def add(self, clip: str, pred: Tensor, *target: Tensor) -> None:
        """Add one predicted mask, bool or logits ``(H, W)``, and its true mask, bool ``(H, W)``, if any."""
        if self.protocol.binary and pred.dtype != torch.bool:
            pred = pred > 0
        self.update(pred[None], *(true[None] for true in target), [clip])

    def compute(self) -> dict[str, Tensor]:
        """Return the values of the metric; each key begins with the label."""
        return {f"{self.label}_{key}": value for key, value in super().compute().items()}  # type: ignore[safe-super]


class ProtocolJF(_OneProtocol, MaskJF):
    """J and F under one evaluation protocol."""


class CeilingJF(ProtocolJF):
    """J and F of the masks of true prompts: the best scores that a model can reach with the decoder."""


class FloorJF(ProtocolJF):
    """J and F of answers with the sound of other clips: the scores of a model that does not listen."""


class ProtocolS(_OneProtocol, NullMaskS):
    """S under one evaluation protocol."""


def label_of(protocol: str, size: MaskSize) -> str:
    """Return the name of a protocol in metric keys; with the size ``native`` it ends with ``_native``."""
    return protocol if size == "frame" else f"{protocol}_native"


def scored_by(metrics: MetricCollection, kind: type) -> list[Any]:
    """Return the metrics of exactly one class in a collection."""
    return [metric for _, metric in metrics.items(keep_base=True, copy_state=False) if type(metric) is kind]
