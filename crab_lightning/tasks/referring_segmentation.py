"""Referring segmentation: the object that an expression describes, or its absence (Ref-AVS, ``ref_avs``)."""

from __future__ import annotations

from collections.abc import Sequence

from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks.base import IMAGE_AND_AUDIO, around
from crab_lightning.tasks.segmentation import Segmentation
from crab_lightning.tasks.spatial_text import (
    Reading,
    SpatialPrompt,
    read_referred_object,
)

_TRUE, _FALSE = "<answer>true</answer>", "<answer>false</answer>"


class ReferringSegmentation(Segmentation):
    """Says whether a described object exists, and if so gives its box and three points.

    Reads the field ``expression``. Truth and metrics as in :class:`Segmentation`.
    """

    def prompt(self, sample: Sample) -> Conversation:
        """Return opening, image, audio, and the instruction with the expression in lower case."""
        description = sample.fields["expression"].lower()
        instruction = (
            "Please analyze the video frame and audio to find the object described as "
            f'<des>{description}</des>. Answer with "true" or "false" whether the object exists. '
            "If it exists, respond with a sentence identifying the object's name, its bounding box, "
            "and three pixel points; if not, state that the object is absent."
        )
        return around(IMAGE_AND_AUDIO, (Media.IMAGE, Media.AUDIO), instruction)

    def direct(self, sample: Sample) -> str:
        """Return ``true`` or ``false`` in answer tags, after ``true`` the target's coordinate groups.

        Raises:
            ValueError: If there is no target text, or it says ``true`` without coordinates.
        """
        if _FALSE in self.target(sample, "reasoning"):
            return _FALSE
        return f"{_TRUE} {super().direct(sample)}"

    def read(self, text: str) -> Reading:
        """Read an answer together with the reason for a rejection."""
        return read_referred_object(text, lenient=self.lenient)

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> SpatialPrompt:
        """Return absence where most answers say so, else the median box."""
        truths = [truth for sample in samples if (truth := self.truth(sample, spec)) is not None]
        if truths and 2 * sum(truth.absent for truth in truths) > len(truths):
            return SpatialPrompt(absent=True)
        return super().majority(samples, spec)
