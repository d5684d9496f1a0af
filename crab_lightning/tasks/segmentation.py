"""Segmentation of the sounding object: AVSBench, one source (``s4``) and several (``ms3``)."""

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
from crab_lightning.tasks.named_masks import NamedMasks, add_masks, name_metrics, named_objects
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

    The true prompt is in the manifest's target text only, so :meth:`truth` returns ``None`` for a test
    sample. The true mask is a file (``mask_candidates``).

    Scoring, with a mask decoder: J and F under the protocols that the row's ``metrics`` names (``crabplus``
    when left out; also ``avsbench`` and ``framewise``), keys ``<protocol>_j`` and ``<protocol>_f``. Always:
    IoU of the box with the box around the true mask, keys ``iou``, ``auc``, ``success_at_50``; an answer
    without a box has IoU 0. ``avsbench`` takes each clip as one batch, whatever frames of it are tested.

    Args:
        lenient: Also read blanks inside brackets, decimals, 224 as the far side of a box, and coordinates
            from 0 to 1. The released scripts reject those answers, so state it when you report such results.
        mask_decoder: Makes masks of prompts, for example ``crab_lightning.segmentation.Sam2Decoder``. When
            left out, no masks are made and only boxes are scored.
        mask_size: ``frame`` makes and scores masks on the 224-pixel frame, as published; ``native`` on the
            image and mask files as they are, and says so in the keys (``crabplus_native_j``).
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
        ValueError: If there is a ``name_decoder`` without a ``mask_decoder``, or one is given instead of the
            other.
    """

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
                "name_decoder needs a mask_decoder beside it: the masks of names are compared with those of "
                "box and points. Add mask_decoder to the task, or leave name_decoder out"
            )
        for key, decoder, names in (("mask", mask_decoder, False), ("name", name_decoder, True)):
            if decoder is not None and getattr(decoder, "reads_names", False) is not names:
                reads = "boxes and points" if names else "names"
                raise ValueError(
                    f"{key}_decoder is {type(decoder).__name__}, which reads {reads}. mask_decoder takes a "
                    "class such as Sam2Decoder, name_decoder one such as Sam3Decoder"
                )
        self.lenient = lenient
        self.mask_decoder_optional = mask_decoder_optional
        self.without_masks: str | None = None if mask_decoder is not None else NO_MASKS
        """Why boxes alone are scored; ``None`` where masks are made."""
        self.ceiling = ceiling and mask_decoder is not None
        self.masks = None if mask_decoder is None else MaskMaker(mask_decoder, mask_size)
        self.named: NamedMasks | None = None
        if name_decoder is not None and self.masks is not None:
            self.named = NamedMasks(name_decoder, self.masks)

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the text to be learnt: the box, and its points or its centre."""
        return row if "text" in row else {**row, "target": self._written(row)}

    def _written(self, row: dict[str, Any]) -> str:
        x1, y1, x2, y2 = row["box"]
        points = row.get("points") or (((x1 + x2) // 2, (y1 + y2) // 2),)
        return ",".join([f"[{x1},{y1},{x2},{y2}]", *(f"[{x},{y}]" for x, y in points)])

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return how to write the answer, in tags."""
        return _COORDINATES

    def direct(self, sample: Sample) -> str:
        """Return the coordinate groups of the target text, separated by commas.

        Raises:
            ValueError: If there is no target text, or it holds no group.
        """
        groups = coordinate_groups(self.target(sample, "reasoning"), lenient=self.lenient)
        if not groups:
            raise ValueError(
                f"{describe(sample)}: target {sample.target!r} contains no coordinates such as "
                "[10,20,110,120] or [60,70]. Correct the row, or train it with target: reasoning."
            )
        return ",".join(groups)

    def read(self, text: str) -> Reading:
        """Read an answer together with the reason for a rejection."""
        return read_box_and_points(text, lenient=self.lenient)

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> SpatialPrompt | None:
        """Read box and points; ``None`` for an answer that the released scripts reject."""
        return self.read(text).prompt

    def truth(self, sample: Sample, spec: DatasetSpec) -> SpatialPrompt | None:
        """Return box and points of the target text.

        ``None`` for a test sample, and for a text with coordinates that the released scripts reject (objects
        of one pixel's width have such boxes): it is what the model learns, though no mask can come of it.

        Raises:
            ValueError: If the target text holds no coordinates at all.
        """
        if sample.target is None:
            return None
        reading = self.read(sample.target)
        if reading.status == "coordinate_extraction_failed":
            raise ValueError(
                f"{describe(sample)}: target {sample.target!r} cannot be read ({reading.status}): it needs "
                "a box [x1,y1,x2,y2] or points [x,y] without blanks. Correct the row, or set `lenient: true` "
                "of the task to allow blanks."
            )
        return reading.prompt

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the box metric, and with a mask decoder those of every protocol."""
        names = chosen(spec, self.protocols, ["crabplus"])
        found: dict[str, Any] = {"iou": BoxIoU()}  # in order of the names: after J and F
        if self.masks is not None:
            for name in names:
                label = label_of(name, self.masks.size)
                found |= self._mask_metrics(name, label)
                if self.ceiling:
                    found[f"{label}_ceiling"] = CeilingJF(name, f"{label}_ceiling")
                if self.masks.floor is not None:
                    found[f"{label}_floor"] = FloorJF(name, f"{label}_floor")
                if self.named is not None:
                    found |= name_metrics(name, label)
            if self.named is not None:
                found["right"] = RightPrompts()
        return MetricCollection(found, compute_groups=False)

    def _mask_metrics(self, protocol: str, label: str) -> dict[str, Any]:
        return {label: ProtocolJF(protocol, label)}

    def update(
        self, metrics: MetricCollection, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer; none is scored as an empty mask and a missed box.

        Raises:
            FileNotFoundError: If masks are scored and there is no true one.
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
        """Add the masks of what an answer names, also where its box and points cannot be read."""
        if self.masks is None or self.named is None or is_null(sample):
            return
        truth, names = self.masks.truth(sample), self.names(text, sample)
        found = self.named.masks(names, answer, sample, truth)
        add_masks(metrics, found, truth, self._batch(sample), named=bool(names))

    def names(self, text: str, sample: Sample) -> tuple[str, ...]:
        """Return what an answer names."""
        return named_objects(text)

    def _batch(self, sample: Sample) -> str:
        """Name the frames that are scored together, under protocols that have batches."""
        return sample.clip

    def _add_mask(self, metrics: MetricCollection, pred: Tensor, truth: Tensor, sample: Sample) -> None:
        for metric in scored_by(metrics, ProtocolJF):
            metric.add(self._batch(sample), pred, truth)

    def _beside(self, sample: Sample) -> list[tuple[type, SpatialPrompt | None]]:
        """Return what is scored beside the answer: the true prompt, and the answer to another sound."""
        found: list[tuple[type, SpatialPrompt | None]] = []
        if self.masks is None or is_null(sample):
            return found
        if self.ceiling:
            found.append((CeilingJF, self.masks.true_prompt(sample)))
        if self.masks.floor is not None and sample.id in self.masks.floor:
            found.append((FloorJF, self.masks.floor[sample.id]))
        return found

    def _true_box(self, sample: Sample) -> Box | None:
        """Return the box around the true mask, else the one taught; ``None`` where nothing is to be found."""
        if (file := find_mask(sample)) is not None:
            box: Box | None = enclosing_box(true_mask(file, sample).numpy())
            return box
        return None if sample.target is None else _box_or_none(self.read(sample.target).prompt)

    def score(self, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return J of the mask (both empty counts as 1), without a mask decoder the IoU of the box."""
        if self.masks is not None:
            truth = self.masks.truth(sample)
            pred = self.masks.mask(answer, sample, truth)
            pred = pred if pred.dtype == torch.bool else pred > 0
            return float(binary_scores(pred[None], truth[None])[0])
        box = self._true_box(sample)
        return None if box is None else float(box_iou(box_tensor(_box_of(answer)), box_tensor(box)))

    def headline(self, spec: DatasetSpec) -> str:
        """Return J of the first protocol, without a mask decoder ``iou``."""
        if self.masks is None:
            return "iou"
        return f"{label_of(chosen(spec, self.protocols, ['crabplus'])[0], self.masks.size)}_j"

    def ready(self) -> str | None:
        """Load the decoders; return why the mask decoder cannot be loaded where boxes alone will do.

        Raises:
            OSError: If weights cannot be had and are not optional.
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
                    "name_decoder the task scores the masks of boxes and points alone"
                ) from err
        return None

    def do_without(self, reason: str) -> str:
        """Score boxes alone, and return the line that says so."""
        self.masks = self.named = None
        self.without_masks = f"{BOXES_ALONE}: the weights of the mask decoder cannot be loaded ({reason})"
        return self.without_masks

    def note(self, spec: DatasetSpec) -> str | None:
        """Say when no masks were made, and when answers were read leniently."""
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
        """Write the mask as PNG, empty for an answer that gives none; see ``save_mask`` for the path."""
        if self.masks is not None:
            like = self.masks.truth(sample) if self.masks.size == "native" else None
            save_mask(self.masks.mask(answer, sample, like), sample, folder)

    def check(self, samples: Sequence[Sample], spec: DatasetSpec) -> None:
        """Read the true prompts, and where masks will be scored look for their files.

        Raises:
            ValueError: At the first annotation that cannot be read.
            FileNotFoundError: At the first row for validation or test that has no mask.
        """
        super().check(samples, spec)
        if self.masks is not None:
            for sample in samples:
                if sample.split != "train" and find_mask(sample) is None and not is_null(sample):
                    self.masks.truth(sample)

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> SpatialPrompt:
        """Return the median box of the training answers with its centre as the point."""
        box = median_box([_box_or_none(self.truth(sample, spec)) for sample in samples])
        return SpatialPrompt(box, (((box[0] + box[2]) // 2, (box[1] + box[3]) // 2),))

    def jsonable(self, answer: SpatialPrompt) -> Any:
        """Return box, points and whether the object is absent."""
        return {
            "box_xyxy_px": None if answer.box_xyxy_px is None else list(answer.box_xyxy_px),
            "points_xy_px": [list(point) for point in answer.points_xy_px],
            "absent": answer.absent,
        }


def _box_or_none(prompt: SpatialPrompt | None) -> Box | None:
    return None if prompt is None else prompt.box_xyxy_px


def _box_of(answer: SpatialPrompt | None) -> Box:
    return _box_or_none(answer) or (0, 0, 0, 0)
