"""Referring segmentation: the mask of the object that an expression describes (Ref-AVS, ``ref_avs``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from crab_lightning.metrics import Accuracy
from crab_lightning.structures import Conversation, DatasetSpec, Sample
from crab_lightning.tasks.base import index_tensor
from crab_lightning.tasks.masks import ProtocolJF, ProtocolS, is_null, scored_by
from crab_lightning.tasks.segmentation import Segmentation
from crab_lightning.tasks.spatial_text import (
    ABSENT,
    Reading,
    SpatialPrompt,
    read_referred_object,
)

_ENDS = {"test_s": "_seen", "test_u": "_unseen"}
_TRUE, _FALSE = "<answer>true</answer>", ABSENT


NULL_ROWS = (
    "in the null subset an unreadable answer counts as an empty mask, which is the right mask there (S = 0); "
    "null_unread is the fraction of such answers"
)


class ReferringSegmentation(Segmentation):
    """Says whether a described object exists, and if it does, answers with its box and three points.

    The task reads the field ``expression``. Truth and box scores are those of :class:`Segmentation`. With a
    mask decoder, the scores are J and F over all samples with an object (``<protocol>_j``), J and F of the
    seen and of the unseen subset (``<protocol>_seen_j``, ``<protocol>_unseen_j``), and S over the samples
    without an object (``<protocol>_null_s``, lower is better). The samples without an object are the null
    subset of a test and validation rows whose target text says so; ``null_unread`` is the fraction of them
    with an unreadable answer.

    Evaluation protocols: ``crabplus`` (the default), ``framewise`` and ``refavs``, which scores the frames of
    a clip as one batch.
    """

    optional_keys = ("box", "points", "mask", "expression")
    protocols = ("crabplus", "framewise", "refavs")

    def prompt(self, sample: Sample) -> Conversation:
        """Return the opening text, the image, the audio, and the instruction with the expression."""
        description = sample.fields["expression"].lower()
        instruction = (
            "Please analyze the video frame and audio to find the object described as "
            f'<des>{description}</des>. Answer with "true" or "false" whether the object exists. '
            "If it exists, respond with a sentence identifying the object's name, its bounding box, "
            "and three pixel points; if not, state that the object is absent."
        )
        return (*self.opening, instruction)

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the expression and the text to be learnt; a row without a box means an absent object.

        Raises:
            KeyError: If the row has neither an expression nor a question.
            ValueError: If the row has a mask but no box.
        """
        if "question" not in row:
            row["expression"]  # raises KeyError
        row = {**row, "expression": row.get("expression") or row["question"]}
        if "text" in row:
            return row
        if "box" not in row and ("mask_candidates" in row or "points" in row):
            raise ValueError(
                "a row with a mask or points also needs a box; only a row of an absent object has none of"
                " them"
            )
        return {**row, "target": f"{_TRUE} {self._written(row)}" if "box" in row else _FALSE}

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        written = super().explanation(sample, spec)
        return f"Begin with {_TRUE} or {_FALSE}. {written}"

    def direct(self, sample: Sample) -> str:
        """Return ``true`` or ``false`` in answer tags; the coordinates of the target text follow ``true``.

        Raises:
            ValueError: If there is no target text, or it says ``true`` without coordinates.
        """
        if _FALSE in self.target(sample, "reasoning"):
            return _FALSE
        return f"{_TRUE} {super().direct(sample)}"

    def read(self, text: str) -> Reading:
        """Read an answer; the result has the reason if the answer is rejected."""
        return read_referred_object(text, lenient=self.lenient)

    def _mask_metrics(self, protocol: str, label: str) -> dict[str, Any]:
        names = (label, f"{label}_seen", f"{label}_unseen")
        return {name: ProtocolJF(protocol, name) for name in names} | {
            f"{label}_null": ProtocolS(protocol, f"{label}_null"),
            "null_unread": Accuracy(),
        }

    def update(
        self, metrics: MetricCollection, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer as :class:`Segmentation` does; without an object, also add whether it was read."""
        super().update(metrics, answer, sample, spec)
        if is_null(sample):
            for unread in scored_by(metrics, Accuracy):
                unread.update(index_tensor(int(answer is None)), index_tensor(1))

    def caveats(
        self, samples: Sequence[Sample], spec: DatasetSpec, lengths_s: Mapping[str, float]
    ) -> list[str]:
        """Return a warning if no sample has an object, which a wrong name of the key ``box`` may cause."""
        absent = sum(is_null(sample) for sample in samples)
        if absent < max(len(samples), 2):
            return []
        return [f"in all {absent:,} rows the object is absent. Name the box of an object with the key `box`"]

    def _notes(self) -> list[str]:
        return super()._notes() + [NULL_ROWS] * (self.masks is not None)

    def names(self, text: str, sample: Sample) -> tuple[str, ...]:
        """Return the objects that an answer names, or else the expression; none for an empty answer."""
        if not text.strip():
            return ()
        return super().names(text, sample) or (str(sample.fields["expression"]),)

    def _batch(self, sample: Sample) -> str:
        return f"{sample.clip}/{sample.fields.get('object_id')}"

    def _add_mask(self, metrics: MetricCollection, pred: Tensor, truth: Tensor, sample: Sample) -> None:
        subset = sample.fields.get("subset")
        if is_null(sample):
            for null in scored_by(metrics, ProtocolS):
                null.add(self._batch(sample), pred)
            return
        for metric in scored_by(metrics, ProtocolJF):
            if metric.label.endswith(("_seen", "_unseen")) and not metric.label.endswith(
                _ENDS.get(str(subset), "-")
            ):
                continue
            metric.add(self._batch(sample), pred, truth)

    def score(self, answer: SpatialPrompt | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return the score of :class:`Segmentation`.

        Without a mask decoder, an answer about a sample without an object scores 1 if it says so, else 0.
        """
        if self.masks is None and is_null(sample):
            return float(answer is not None and answer.absent)
        return super().score(answer, sample, spec)

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> SpatialPrompt:
        """Return that the object is absent if this is true for most samples, else the median box."""
        truths = [truth for sample in samples if (truth := self.truth(sample, spec)) is not None]
        if truths and 2 * sum(truth.absent for truth in truths) > len(truths):
            return SpatialPrompt(absent=True)
        return super().majority(samples, spec)
