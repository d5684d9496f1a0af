"""Segmentation of the sounding object: AVSBench, one source (``s4``) and several (``ms3``)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Any

from torchmetrics import MetricCollection

from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks.base import IMAGE_AND_AUDIO, Task, around, describe
from crab_lightning.tasks.spatial_text import (
    Reading,
    SpatialPrompt,
    coordinate_groups,
    read_box_and_points,
)


class Segmentation(Task[SpatialPrompt]):
    """Gives a box and three points on the object that sounds; a segmenter turns them into a mask.

    The true answer in this form is in the manifest's target text only. In a test manifest the truth is the
    mask file (``mask_candidates``), so :meth:`truth` and :meth:`score` return ``None`` there. Without a mask
    decoder no metric is reported, only the share of unreadable answers.

    Args:
        lenient: Also read blanks inside brackets, decimals, and 224 as the far side of a box. The released
            scripts reject those answers, so results with it have to be named as such.
    """

    instruction = (
        "Please identify the category of the object producing the sound in the video frame. Then, provide "
        "the bounding box and three pixel points of the object that is making the sound within the frame."
    )

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient

    def prompt(self, sample: Sample) -> Conversation:
        """Return opening, image, audio, instruction."""
        return around(IMAGE_AND_AUDIO, (Media.IMAGE, Media.AUDIO), self.instruction)

    def direct(self, sample: Sample) -> str:
        """Return the coordinate groups of the target text, separated by commas.

        Raises:
            ValueError: If there is no target text, or it holds no group.
        """
        groups = coordinate_groups(self.target(sample, "reasoning"), lenient=self.lenient)
        if not groups:
            raise ValueError(
                f"{describe(sample)}: target {sample.target!r} holds no coordinates such as "
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
        """Return no metric: masks need a mask decoder."""
        return MetricCollection({})

    def update(
        self, metrics: MetricCollection, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add nothing, see :meth:`metrics`."""

    def score(self, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return ``None``: prompts differ and still give the same mask."""
        return None

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> SpatialPrompt:
        """Return the median box of the training answers with its centre as the point."""
        boxes = [
            truth.box_xyxy_px
            for sample in samples
            if (truth := self.truth(sample, spec)) is not None and truth.box_xyxy_px is not None
        ]
        if not boxes:
            raise ValueError(f"no majority answer: none of {len(samples)} rows holds a box")
        x1, y1, x2, y2 = (median_low(side) for side in zip(*boxes, strict=True))
        return SpatialPrompt((x1, y1, x2, y2), (((x1 + x2) // 2, (y1 + y2) // 2),))

    def jsonable(self, answer: SpatialPrompt) -> Any:
        """Return box, points and whether the object is absent."""
        return {
            "box_xyxy_px": None if answer.box_xyxy_px is None else list(answer.box_xyxy_px),
            "points_xy_px": [list(point) for point in answer.points_xy_px],
            "absent": answer.absent,
        }
