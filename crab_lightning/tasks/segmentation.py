"""Segmentation of the sounding object: AVSBench with one source (``s4``) and with several (``ms3``)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from crab_lightning.metrics import BoxIoU, RightPrompts, box_iou
from crab_lightning.metrics.mask_scores import binary_scores
from crab_lightning.segmentation import MaskDecoder, enclosing_box
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import IMAGE_AND_AUDIO, LENIENT, InstructedTask, box_tensor, chosen, describe
from crab_lightning.tasks.masks import (
    CeilingJF,
    FloorJF,
    MaskMaker,
    MaskSize,
    ProtocolJF,
    find_mask,
    is_null,
    label_of,
    load_decoder,
    save_mask,
    scored_by,
    true_mask,
)
from crab_lightning.tasks.named_masks import BothJF, NamedMasks, NameJF, add_masks, named_objects
from crab_lightning.tasks.spatial_text import (
    Box,
    Reading,
    SpatialPrompt,
    coordinate_groups,
    median_box,
    read_box_and_points,
)

BOXES_ALONE = "only boxes are scored, without J and F"
_COORDINATES = (
    "Take the picture as 224 pixels wide and 224 pixels high. Write the box as its left, top, right and "
    "bottom side in pixels, then the three points: [10,20,110,120],[50,60],[60,70],[70,80]"
)
NO_MASKS = f"{BOXES_ALONE}: the task has no mask_decoder"


class Segmentation(InstructedTask[SpatialPrompt]):
    """Answers with a box and three points on the object that sounds; a mask decoder makes a mask from them.

    The true box and points are only in the manifest's target text, so :meth:`truth` returns ``None`` for a
    test sample. The true mask is a file (field ``mask_candidates``).

    Scoring with a mask decoder: J and F under the evaluation protocols in the ``metrics`` of the dataset's
    entry (``crabplus``, which is the default, ``avsbench`` and ``framewise``), with the keys ``<protocol>_j``
    and ``<protocol>_f``. ``avsbench`` scores the frames of a clip as one batch. The IoU of the box with the
    box around the true mask is always scored, with the keys ``iou``, ``auc`` and ``success_at_50``; an answer
    without a box has IoU 0.

    Args:
        lenient: Also read spaces inside brackets, decimals, 224 as the right or lower side of a box, and
            coordinates from 0 to 1. The released scripts reject such answers, so state it when you report
            such results.
        mask_decoder: Makes masks of prompts, for example ``crab_lightning.segmentation.Sam2Decoder``. When
            left out, no masks are made and only boxes are scored.
        mask_size: ``frame`` makes and scores masks on the 224-pixel frame, as published. ``native`` uses the
            sizes of the image and mask files; the keys then contain ``native`` (``crabplus_native_j``).
        ceiling: Also score the masks of the true prompts (``<protocol>_ceiling_j``), which is the best score
            that a model can reach with this decoder. This needs one more mask for each answer.
        mask_decoder_optional: If the weights of the decoder are not available, score boxes only; the results
            state it. When left out, the run ends at its start in this case.
        name_decoder: Makes masks of the objects that an answer names, for example
            ``crab_lightning.segmentation.Sam3Decoder``. Masks of the name (``<protocol>_name_j``) and of the
            name with box and points (``<protocol>_both_j``) are then scored as well, and
            ``right_from_...`` is the fraction of answers for which each of the three is right. It needs a
            ``mask_decoder``. If its weights are not available, the run ends at its start.

    Raises:
        ValueError: If there is a ``name_decoder`` without a ``mask_decoder``, a decoder of one kind is given
            as the other, or ``mask_size`` is unknown.
    """

    optional_keys: tuple[str, ...] = ("points", "mask")
    protocols = ("crabplus", "avsbench", "framewise")

    opening = IMAGE_AND_AUDIO
    instruction = (
        "Please identify the category of the object producing the sound in the video frame. Then, provide "
        "the bounding box and three pixel points of the object that is making the sound within the frame."
    )

    def __init__(
        self,
        lenient: bool = False,
        mask_decoder: MaskDecoder | None = None,
        mask_size: MaskSize = "frame",
        ceiling: bool = False,
        mask_decoder_optional: bool = False,
        name_decoder: MaskDecoder | None = None,
    ) -> None:
        if name_decoder is not None and mask_decoder is None:
            raise ValueError(
                "name_decoder needs a mask_decoder, because the masks of names are compared with those of "
                "box and points. Add mask_decoder to the task, or leave name_decoder out"
            )
        for key, decoder, names in (("mask", mask_decoder, False), ("name", name_decoder, True)):
            if decoder is not None and getattr(decoder, "reads_names", False) is not names:
                reads = "boxes and points" if names else "names"
                raise ValueError(
                    f"{key}_decoder is {type(decoder).__name__}, which reads {reads}. mask_decoder must be a "
                    "class such as Sam2Decoder, and name_decoder a class such as Sam3Decoder"
                )
        self.lenient = lenient
        self.mask_decoder_optional = mask_decoder_optional
        self.without_masks: str | None = None if mask_decoder is not None else NO_MASKS
        """The reason why only boxes are scored; ``None`` if masks are made."""
        self.ceiling = ceiling and mask_decoder is not None
        self.masks = None if mask_decoder is None else MaskMaker(mask_decoder, mask_size)
        self.named: NamedMasks | None = None
        if name_decoder is not None and self.masks is not None:
            self.named = NamedMasks(name_decoder, self.masks)

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with the text to be learnt: the box, and the points or the centre of the box.

        Raises:
            KeyError: If the row has neither a box nor a target.
            ValueError: If the row has both, and the target does not contain the box and the points.
        """
        if "text" in row or ("target" in row and not {"box", "points"} & row.keys()):
            return row
        return {**row, "target": self._written(row)}

    def _written(self, row: dict[str, Any]) -> str:
        x1, y1, x2, y2 = row["box"]
        points = row.get("points") or (((x1 + x2) // 2, (y1 + y2) // 2),)
        groups = [f"[{x1},{y1},{x2},{y2}]", *(f"[{x},{y}]" for x, y in points)]
        stated = groups if "points" in row else groups[:1]
        if "target" in row and stated != coordinate_groups(row["target"], lenient=True)[: len(stated)]:
            raise ValueError(
                f"the row's box and points are {','.join(stated)}, but its target {row['target']!r} has "
                "other coordinates. Correct the row: write the same coordinates, or only the target."
            )
        return ",".join(groups)

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        return _COORDINATES

    def direct(self, sample: Sample) -> str:
        """Return the coordinate groups of the target text, separated by commas.

        Raises:
            ValueError: If there is no target text, or it contains no coordinates.
        """
        groups = coordinate_groups(self.target(sample, "reasoning"), lenient=self.lenient)
        if not groups:
            raise ValueError(
                f"{describe(sample)}: target {sample.target!r} contains no coordinates such as "
                "[10,20,110,120] or [60,70]. Correct the row, or train it with target: reasoning."
            )
        return ",".join(groups)

    def read(self, text: str) -> Reading:
        """Read an answer; the result has the reason if the answer is rejected."""
        return read_box_and_points(text, lenient=self.lenient)

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> SpatialPrompt | None:
        """Read box and points; ``None`` for an answer that the released scripts reject."""
        return self.read(text).prompt

    def truth(self, sample: Sample, spec: DatasetSpec) -> SpatialPrompt | None:
        """Return the box and points of the target text.

        The result is ``None`` for a test sample, and for coordinates that the released scripts reject, such
        as the box of an object with a width of one pixel. The model learns such a text, although it gives no
        mask.

        Raises:
            ValueError: If the target text contains no coordinates.
        """
        if sample.target is None:
            return None
        reading = self.read(sample.target)
        if reading.status == "coordinate_extraction_failed":
            raise ValueError(
                f"{describe(sample)}: target {sample.target!r} cannot be read ({reading.status}): it needs "
                "a box [x1,y1,x2,y2] or points [x,y] without spaces. Correct the row, or set `lenient: true` "
                "of the task to allow spaces."
            )
        return reading.prompt

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the metric of boxes and, with a mask decoder, the metrics of every protocol."""
        names = chosen(spec, self.protocols, ["crabplus"])
        found: dict[str, Any] = {"iou": BoxIoU()}
        if self.masks is not None:
            for name in names:
                label = label_of(name, self.masks.size)
                found |= self._mask_metrics(name, label)
                kinds: list[tuple[str, type[ProtocolJF]]] = [("ceiling", CeilingJF)] * self.ceiling
                kinds += [("floor", FloorJF)] * (self.masks.floor is not None)
                kinds += [("name", NameJF), ("both", BothJF)] * (self.named is not None)
                for part, kind in kinds:
                    found[f"{label}_{part}"] = kind(name, f"{label}_{part}")
            if self.named is not None:
                found["right"] = RightPrompts()
        return MetricCollection(found, compute_groups=False)

    def _mask_metrics(self, protocol: str, label: str) -> dict[str, Any]:
        return {label: ProtocolJF(protocol, label)}

    def update(
        self, metrics: MetricCollection, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer; ``None`` is scored as an empty mask and a box with IoU 0.

        Raises:
            FileNotFoundError: If masks are scored and the true mask does not exist.
        """
        true_box = self._true_box(sample)
        if true_box is not None:
            for metric in scored_by(metrics, BoxIoU):
                metric.update(box_tensor(_box_of(answer)), box_tensor(true_box))
        if self.masks is not None:
            truth = self.masks.truth(sample)
            self._add_mask(metrics, self.masks.mask(answer, sample, truth), truth, sample)
            for kind, other in self._beside(sample):
                mask = self.masks.mask(other, sample, truth)
                for metric in scored_by(metrics, kind):
                    metric.add(self._batch(sample), mask, truth)

    def update_text(
        self,
        metrics: MetricCollection,
        text: str,
        answer: SpatialPrompt | None,
        sample: Sample,
        spec: DatasetSpec,
    ) -> None:
        """Add the masks of the objects that an answer names, also if its box and points cannot be read."""
        if self.masks is None or self.named is None or is_null(sample):
            return
        truth, names = self.masks.truth(sample), self.names(text, sample)
        found = self.named.masks(names, answer, sample, truth)
        add_masks(metrics, found, truth, self._batch(sample), named=bool(names))

    def names(self, text: str, sample: Sample) -> tuple[str, ...]:
        """Return the names of the objects in an answer."""
        return named_objects(text)

    def _batch(self, sample: Sample) -> str:
        """Return the name of the batch of a sample; some protocols score the frames of a batch together."""
        return sample.clip

    def _add_mask(self, metrics: MetricCollection, pred: Tensor, truth: Tensor, sample: Sample) -> None:
        for metric in scored_by(metrics, ProtocolJF):
            metric.add(self._batch(sample), pred, truth)

    def _beside(self, sample: Sample) -> list[tuple[type, SpatialPrompt | None]]:
        """Return the other prompts that are scored: the true prompt, and the answer to another sound."""
        found: list[tuple[type, SpatialPrompt | None]] = []
        if self.masks is None or is_null(sample):
            return found
        if self.ceiling:
            found.append((CeilingJF, self.masks.true_prompt(sample)))
        if self.masks.floor is not None and sample.id in self.masks.floor:
            found.append((FloorJF, self.masks.floor[sample.id]))
        return found

    def _true_box(self, sample: Sample) -> Box | None:
        """Return the box around the true mask, or else the box in the target; ``None`` without an object."""
        if (file := find_mask(sample)) is not None:
            box: Box | None = enclosing_box(true_mask(file, sample).numpy())
            return box
        return None if sample.target is None else _box_or_none(self.read(sample.target).prompt)

    def score(self, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return J of the mask (1 if both masks are empty); without a mask decoder the IoU of the box."""
        if self.masks is not None:
            truth = self.masks.truth(sample)
            pred = self.masks.mask(answer, sample, truth)
            pred = pred if pred.dtype == torch.bool else pred > 0
            return float(binary_scores(pred[None], truth[None])[0])
        box = self._true_box(sample)
        return None if box is None else float(box_iou(box_tensor(_box_of(answer)), box_tensor(box)))

    def headline(self, spec: DatasetSpec) -> str:
        """Return the key of J under the first protocol; without a mask decoder ``iou``."""
        if self.masks is None:
            return "iou"
        return f"{label_of(chosen(spec, self.protocols, ['crabplus'])[0], self.masks.size)}_j"

    def ready(self) -> str | None:
        """Load the decoders.

        Returns:
            The reason why the mask decoder cannot be loaded, if it is optional; ``None`` if all is loaded.

        Raises:
            OSError: If weights cannot be loaded and are not optional.
            ImportError: If the package of a decoder is not installed and is not optional.
        """
        if self.masks is None:
            return None
        try:
            load_decoder(self.masks.decoder)
        except (OSError, ImportError) as err:
            if not self.mask_decoder_optional:
                raise
            return textwrap.shorten(str(err), 200, placeholder=" ...")
        if self.named is not None:
            try:
                load_decoder(self.named.decoder)
            except OSError as err:
                raise OSError(
                    f"name_decoder: {textwrap.shorten(str(err), 300, placeholder=' ...')} Without "
                    "name_decoder the task scores only the masks of boxes and points"
                ) from err
        return None

    def do_without(self, reason: str) -> str:
        """Score only boxes from now on, and return the remark that says so."""
        self.masks = self.named = None
        self.without_masks = f"{BOXES_ALONE}: the weights of the mask decoder cannot be loaded ({reason})"
        return self.without_masks

    def note(self, spec: DatasetSpec) -> str | None:
        """Return remarks on missing masks and on lenient reading."""
        return "; ".join(self._notes()) or None

    def _notes(self) -> list[str]:
        without = [] if self.without_masks is None else [self.without_masks]
        return without + [LENIENT] * self.lenient

    def prepare(self, answers: Sequence[tuple[SpatialPrompt | None, Sample]], spec: DatasetSpec) -> None:
        """Make the masks of several answers in one call of the decoder."""
        if self.masks is not None:
            beside = [(other, sample) for _, sample in answers for _, other in self._beside(sample)]
            self.masks.prepare([*answers, *beside])

    def save(self, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec, folder: Path) -> None:
        """Write the mask as a PNG file; it is empty for an unreadable answer. See ``save_mask``."""
        if self.masks is not None:
            like = self.masks.truth(sample) if self.masks.size == "native" else None
            save_mask(self.masks.mask(answer, sample, like), sample, folder)

    def check(self, samples: Sequence[Sample], spec: DatasetSpec) -> None:
        """Read the true prompts; if masks are scored, also check that the mask files exist.

        Raises:
            ValueError: At the first annotation that cannot be read.
            FileNotFoundError: At the first row for validation or test without a mask file.
        """
        super().check(samples, spec)
        if self.masks is not None:
            for sample in samples:
                if sample.split != "train" and find_mask(sample) is None and not is_null(sample):
                    self.masks.truth(sample)

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> SpatialPrompt:
        """Return the median box of the true answers, with the centre of this box as the point."""
        box = median_box([_box_or_none(self.truth(sample, spec)) for sample in samples])
        return SpatialPrompt(box, (((box[0] + box[2]) // 2, (box[1] + box[3]) // 2),))

    def jsonable(self, answer: SpatialPrompt) -> Any:
        """Return the box, the points and whether the object is absent."""
        return {
            "box_xyxy_px": None if answer.box_xyxy_px is None else list(answer.box_xyxy_px),
            "points_xy_px": [list(point) for point in answer.points_xy_px],
            "absent": answer.absent,
        }


def _box_or_none(prompt: SpatialPrompt | None) -> Box | None:
    return None if prompt is None else prompt.box_xyxy_px


def _box_of(answer: SpatialPrompt | None) -> Box:
    return _box_or_none(answer) or (0, 0, 0, 0)
