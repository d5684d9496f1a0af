"""Image grounding: a box around the object that sounds (ARIG, boxes of AVSBench S4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchmetrics import MetricCollection

from crab_lightning.metrics import BoxIoU, box_iou
from crab_lightning.segmentation import MaskDecoder
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import IMAGE_AND_AUDIO, InstructedTask, box_tensor, describe
from crab_lightning.tasks.masks import MaskMaker, save_mask
from crab_lightning.tasks.spatial_text import FRAME_PX, Box, SpatialPrompt, median_box, read_box

NO_OBJECT_PX = 1000
"""A box with a first coordinate of at least this value means that no object sounds; it is not scored."""


class ImageGrounding(InstructedTask[Box]):
    """Answers with the box ``(x1, y1, x2, y2)`` of the sounding object, in pixels of the 224-pixel frame.

    The task reads the field ``box_xyxy_px``, or the box in the target text if the field is absent (training
    rows). An unreadable answer is scored as a box of four zeros. Rows without a sounding object have no truth
    and are not scored.

    Scoring: mean box IoU, area under the success curve and success at 0.5, with half-open boxes. The
    benchmark scores no masks. With a mask decoder, the masks of the boxes are written as PNG files.

    Args:
        mask_decoder: Makes masks of boxes, for example ``crab_lightning.segmentation.Sam2Decoder``.
        lenient: Also read decimals, and coordinates from 0 to 1 as fractions of the frame's side. State it
            when you report such results.
    """

    opening = IMAGE_AND_AUDIO
    instruction = (
        "Please recognize the category of object that makes the sound and then output its bounding box."
    )

    def __init__(self, mask_decoder: MaskDecoder | None = None, lenient: bool = False) -> None:
        self.lenient = lenient
        self.masks = None if mask_decoder is None else MaskMaker(mask_decoder)

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with its box as ``box_xyxy_px``; a conversation has the box in its text."""
        return row if "text" in row else {**row, "box_xyxy_px": row["box"]}

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        return (
            "Take the picture as 224 pixels wide and 224 pixels high. Write the left, top, right and bottom "
            "side of the box in pixels inside tags: <obj>(10,20)(110,120)</obj>"
        )

    def direct(self, sample: Sample) -> str:
        """Return ``<obj>(x1,y1)(x2,y2)</obj>``."""
        x1, y1, x2, y2 = self._annotated(sample)
        return f"<obj>({x1},{y1})({x2},{y2})</obj>"

    def _annotated(self, sample: Sample) -> Box:
        """Return the annotated box, also a box that means that no object sounds."""
        if "box_xyxy_px" in sample.fields:
            given = sample.fields["box_xyxy_px"]
            four = isinstance(given, list | tuple) and [type(side) for side in given] == [int] * 4
            if not four or (given[0] < NO_OBJECT_PX and (given[0] > given[2] or given[1] > given[3])):
                raise ValueError(
                    f"{describe(sample)}: the box is {given!r}; it must be [x1, y1, x2, y2] in whole pixels"
                    " with x1 <= x2 and y1 <= y2. Correct the row or remove it."
                )
            x1, y1, x2, y2 = given
            return x1, y1, x2, y2
        box = read_box(self.target(sample, "reasoning"))
        if box is None:
            raise ValueError(
                f"{describe(sample)}: target {sample.target!r} contains no box such as "
                "<obj>(10,20)(110,120)</obj>. Correct the row."
            )
        return box

    def truth(self, sample: Sample, spec: DatasetSpec) -> Box | None:
        """Return the box; ``None`` if no object sounds.

        Raises:
            ValueError: If the row has no ``box_xyxy_px`` and no box in its target text.
        """
        box = self._annotated(sample)
        return None if box[0] >= NO_OBJECT_PX else box

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> Box | None:
        """Read four numbers in square brackets, or two pairs in round brackets; spaces are allowed."""
        return read_box(text, lenient=self.lenient)

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return IoU, AUC and success rate."""
        return MetricCollection({"box": BoxIoU()})

    def update(
        self, metrics: MetricCollection, answer: Box | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one box; nothing is added if no object sounds."""
        truth = self.truth(sample, spec)
        if truth is not None:
            metrics.update(box_tensor(answer or (0, 0, 0, 0)), box_tensor(truth))

    def score(self, answer: Box | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return the IoU; ``None`` if no object sounds."""
        truth = self.truth(sample, spec)
        if truth is None:
            return None
        return float(box_iou(box_tensor(answer or (0, 0, 0, 0)), box_tensor(truth)))

    def headline(self, spec: DatasetSpec) -> str:
        """Return ``iou``."""
        return "iou"

    def prepare(self, answers: Sequence[tuple[Box | None, Sample]], spec: DatasetSpec) -> None:
        """Make the masks of several boxes in one call of the decoder."""
        if self.masks is not None:
            self.masks.prepare([(_prompt(box), sample) for box, sample in answers])

    def save(self, answer: Box | None, sample: Sample, spec: DatasetSpec, folder: Path) -> None:
        """Write the mask of a box as a PNG file; it is empty without a box or with an invalid box."""
        if self.masks is not None:
            save_mask(self.masks.mask(_prompt(answer), sample), sample, folder)

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> Box:
        """Return the box with the median of each side, because two boxes are rarely equal."""
        return median_box([self.truth(sample, spec) for sample in samples])

    def jsonable(self, answer: Box) -> Any:
        """Return the four coordinates as a list."""
        return list(answer)


def _prompt(box: Box | None) -> SpatialPrompt | None:
    """Return the prompt for a mask decoder; ``None`` for a box outside the frame or without area."""
    if box is None or not (box[0] < box[2] < FRAME_PX and box[1] < box[3] < FRAME_PX):
        return None
    return SpatialPrompt(box)
