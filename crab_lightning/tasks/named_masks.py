"""Makes and scores masks of the objects that an answer names."""

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
    """Return the object names in the last sentence of an answer that has some, without articles.

    Args:
        text: A model's answer, such as ``The objects making the sound are the man and the dulcimer.``

    Returns:
        The names in order, each once, here ``("man", "dulcimer")``; empty if the answer names no object.
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
    """J and F of the masks of the names in answers."""


class BothJF(ProtocolJF):
    """J and F of the masks of name, box and points together."""


@dataclass(frozen=True, eq=False)
class MasksOfAnswer:
    """The masks of one answer from three kinds of prompts, each bool or logits ``(H, W)``.

    Args:
        points: Mask of the box and points.
        name: Mask of the named objects.
        both: Mask of both together; if the answer has only one of the two, the mask of that one.
    """

    points: Tensor
    name: Tensor
    both: Tensor


class NamedMasks:
    """Makes masks of names, and keeps those of the last answer; a pickled copy has no masks.

    Args:
        decoder: Makes masks of names, for example ``crab_lightning.segmentation.Sam3Decoder``.
        maker: Makes the masks of boxes and points, at the size that is scored.
    """

    def __init__(self, decoder: MaskDecoder, maker: MaskMaker) -> None:
        self.decoder = decoder
        self.maker = maker
        # Two metric collections score the same answer, one after the other.
        self._last: tuple[object, MasksOfAnswer] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_last": None}

    def masks(
        self, names: tuple[str, ...], answer: SpatialPrompt | None, sample: Sample, truth: Tensor
    ) -> MasksOfAnswer:
        """Return the masks of one answer, at the size of the true mask.

        Args:
            names: Objects that the answer names; may be empty.
            answer: Box and points of the answer; ``None`` if they cannot be read.
            sample: The sample.
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
        """Return the mask of the named objects; it is empty without a name or if the object is absent.

        Args:
            names: Names of the objects.
            answer: Box and points that choose among the named objects; ``None`` takes all of them.
            sample: The sample.
            like: A mask with the size of the result.

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


def add_masks(
    metrics: MetricCollection, found: MasksOfAnswer, truth: Tensor, batch: str, *, named: bool
) -> None:
    """Add the masks of one answer to the metrics.

    Args:
        metrics: Collection with :class:`NameJF`, :class:`BothJF` and :class:`RightPrompts`.
        found: The masks of the answer.
        truth: The true mask.
        batch: Name of the batch; protocols with batches score the frames of a batch together.
        named: Whether the answer names an object.
    """
    for kind, mask in ((NameJF, found.name), (BothJF, found.both)):
        for metric in scored_by(metrics, kind):
            metric.add(batch, mask, truth)
    of_answer = (found.points, found.name, found.both)
    points, name, both = (mask if mask.dtype == torch.bool else mask > 0 for mask in of_answer)
    for right in scored_by(metrics, RightPrompts):
        right.update(points, name, both, truth, named)
