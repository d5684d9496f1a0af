"""Masks of what an answer names, beside those of its box and points."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from crab_lightning.metrics import RightPrompts
from crab_lightning.segmentation import MaskDecoder, MaskRequest, Prompt
from crab_lightning.structures import Sample
from crab_lightning.tasks.answers import plain
from crab_lightning.tasks.masks import MaskMaker, ProtocolJF, scored_by
from crab_lightning.tasks.spatial_text import SpatialPrompt

# "The object making the sound is the X.", "The objects making the sound in the video are the X and the Y.",
# "The object is the X.", "The sounding object is X."
_SENTENCE = re.compile(
    r"\b(?:sounding\s+objects?|objects?(?:\s+(?:that\s+(?:is|are)\s+)?(?:making|producing)\s+(?:the|a)\s+sounds?)?"
    r"(?:\s+in\s+the\s+(?:video(?:\s+frame)?|frame|image|picture))?)\s+(?:is|are)\s+([^.;:\[\](){}<>\n]{1,200})",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an|a)\s+", re.IGNORECASE)
_NO_NAME = re.compile(
    r"^(?:(?:with\s+)?(?:its|their)|absent|not|in|at|on|located|there|here|none)\b", re.IGNORECASE
)


def named_objects(text: str) -> tuple[str, ...]:
    """Return the names in the last sentence of an answer that says which objects are meant, without articles.

    Args:
        text: A model's answer, such as ``The objects making the sound are the man and the dulcimer.``

    Returns:
        The names in order, each once, here ``("man", "dulcimer")``; empty where the answer names nothing.
    """
    names: list[str] = []
    for sentence in _SENTENCE.finditer(plain(text)):
        found = []
        for part in _BETWEEN.split(sentence[1]):
            name = _ARTICLE.sub("", part.strip().strip("'\"`*")).strip().replace("_", " ")
            if not name or _NO_NAME.match(name):
                break
            found.append(name)
        names = found or names
    return tuple(dict.fromkeys(names))


class NameJF(ProtocolJF):
    """J and F of the masks of what answers name."""


class BothJF(ProtocolJF):
    """J and F of the masks of name, box and points together."""


@dataclass(frozen=True, eq=False)
class MasksOfAnswer:
    """The masks of one answer, each of another kind of prompt; bool or logits ``(H, W)``.

    Args:
        points: Of its box and points.
        name: Of what it names.
        both: Of both together; of the one that is there, where an answer has only one.
    """

    points: Tensor
    name: Tensor
    both: Tensor


class NamedMasks:
    """Makes masks of names, each once; pickled without what it has made.

    Args:
        decoder: Makes masks of names, for example ``crab_lightning.segmentation.Sam3Decoder``.
        maker: Makes the masks of boxes and points, and knows the size that is scored.
    """

    def __init__(self, decoder: MaskDecoder, maker: MaskMaker) -> None:
        self.decoder = decoder
        self.maker = maker
        # The same answer is scored by two collections in a row.
        self._last: tuple[object, MasksOfAnswer] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_last": None}

    def masks(
        self, names: tuple[str, ...], answer: SpatialPrompt | None, sample: Sample, truth: Tensor
    ) -> MasksOfAnswer:
        """Return the masks of one answer, at the size of the true mask.

        Args:
            names: What the answer names; empty where it names nothing.
            answer: Its box and points; ``None`` where they cannot be read.
            sample: What was asked.
            truth: The true mask, bool ``(H, W)``.
        """
        key = names, answer, sample.id
        if self._last is None or self._last[0] != key:
            self._last = key, self._make(names, answer, sample, truth)
        return self._last[1]

    def _make(
        self, names: tuple[str, ...], answer: SpatialPrompt | None, sample: Sample, truth: Tensor
    ) -> MasksOfAnswer:
        points = self.maker.mask(answer, sample, truth)
        if answer is not None and answer.absent:
            return MasksOfAnswer(points, points, points)
        name = self.mask(names, None, sample, truth)
        if answer is None or not names:
            return MasksOfAnswer(points, name, name if answer is None else points)
        return MasksOfAnswer(points, name, self.mask(names, answer, sample, truth))

    def mask(
        self, names: tuple[str, ...], answer: SpatialPrompt | None, sample: Sample, like: Tensor
    ) -> Tensor:
        """Return the mask of what is named, and pointed at where there is an answer; empty without a name.

        Args:
            names: What is named.
            answer: Box and points; ``None`` for the names alone.
            sample: What was asked.
            like: A mask whose size is taken.

        Returns:
            bool ``(H, W)``, or the decoder's logits.
        """
        if not names or (answer is not None and answer.absent):
            return torch.zeros_like(like)
        picture = self.maker.picture(sample)
        pointed = Prompt() if answer is None else self.maker.prompt(answer, picture)
        prompt = Prompt(pointed.box_xyxy_px, pointed.points_xy_px, names)
        (made,) = self.decoder.decode([MaskRequest(picture, prompt)])
        return MaskMaker.fitted(made, like)


def name_metrics(protocol: str, label: str) -> dict[str, ProtocolJF]:
    """Return the metrics of masks from names, and from both, under a protocol."""
    return {
        f"{label}_name": NameJF(protocol, f"{label}_name"),
        f"{label}_both": BothJF(protocol, f"{label}_both"),
    }


def add_masks(
    metrics: MetricCollection, found: MasksOfAnswer, truth: Tensor, batch: str, *, named: bool
) -> None:
    """Score the masks of one answer.

    Args:
        metrics: What :func:`name_metrics` returned, and :class:`RightPrompts`.
        found: The masks.
        truth: The true mask.
        batch: Frames of one name are one batch, under protocols that have batches.
        named: Whether the answer names anything.
    """
    for kind, mask in ((NameJF, found.name), (BothJF, found.both)):
        for metric in scored_by(metrics, kind):
            metric.add(batch, mask, truth)
    of_answer = (found.points, found.name, found.both)
    points, name, both = (mask if mask.dtype == torch.bool else mask > 0 for mask in of_answer)
    for right in scored_by(metrics, RightPrompts):
        right.update(points, name, both, truth, named)
