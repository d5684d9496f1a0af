"""Draws sheets of answers about single frames, with the answered and the true box, points and mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crab_lightning.dashboards.figures.media import ClipMedia
from crab_lightning.dashboards.figures.sheet import (
    SAID,
    TRUE,
    Record,
    Sheet,
    Words,
    head_words,
    height_of,
    lost_words,
    wrap,
)
from crab_lightning.segmentation.overlays import FILL, draw_mask

_SIDE, _GAP, _LEFT = 3.3, 0.25, 0.2
_ABSENT = "there is no such object"

Mask = NDArray[np.bool_]


@dataclass
class FrameCard:
    """One answer about a frame of 224 pixels.

    Args:
        record: Prediction record of the answer; boxes are half-open.
        media: The decoded image.
        pred_mask: Answered mask ``(224, 224)``; ``None`` without a mask decoder.
        true_mask: True mask ``(224, 224)``; ``None`` without a mask file.
        asked: The expression of the question; empty if all samples have the same question.
    """

    record: Record
    media: ClipMedia
    pred_mask: Mask | None = None
    true_mask: Mask | None = None
    asked: str = ""


def marks_of(value: Any) -> tuple[list[float] | None, list[list[float]], bool]:
    """Return the box, the points, and whether the object is absent, from an answer as JSON values.

    An answer of another form gives ``None``, no points and False.
    """
    if isinstance(value, dict):
        return value.get("box_xyxy_px"), value.get("points_xy_px") or [], bool(value.get("absent"))
    if isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value):
        return value, [], False
    return None, [], False


def frame_sheet(title: str, cards: Sequence[FrameCard]) -> Any:
    """Return a matplotlib figure of answers side by side, each frame with question and answer below it."""
    words = [_words(card) for card in cards]
    below = max((sum(height_of(t, s) + 0.05 for t, s, _ in block) for block in words), default=0.0)
    head = 0.72
    sheet = Sheet(max(_LEFT * 2 + len(cards) * (_SIDE + _GAP) - _GAP, 7.2), head + _SIDE + below + 0.25)
    sheet.text(_LEFT, 0.1, title, 11, weight="bold")
    sheet.key(_LEFT, 0.42, _entries(cards))
    for column, (card, block) in enumerate(zip(cards, words, strict=True)):
        left = _LEFT + column * (_SIDE + _GAP)
        _draw(sheet.axes(left, head, _SIDE, _SIDE), card)
        sheet.texts(left, head + _SIDE + 0.08, block, 0.05)
    return sheet.figure


def _entries(cards: Sequence[FrameCard]) -> dict[str, dict[str, Any]]:
    """Return the entries of the legend, for the kinds of marks that the cards have."""
    entries: dict[str, dict[str, Any]] = {}
    for key, said, colour, line, marker in (
        ("truth", "true", TRUE, "--", "D"),
        ("parsed", "answered", SAID, "-", "o"),
    ):
        marks = [marks_of(card.record.get(key)) for card in cards]
        if any(box is not None for box, _, _ in marks):
            entries[f"{said} box"] = {"linestyle": line, "color": colour, "linewidth": 2}
        if any(points for _, points, _ in marks):
            dot = {"linestyle": "", "markeredgecolor": "white", "markersize": 8}
            entries[f"{said} points"] = dot | {"marker": marker, "color": colour}
        masks = [card.true_mask if key == "truth" else card.pred_mask for card in cards]
        if any(mask is not None and mask.any() for mask in masks):
            entries[f"{said} mask"] = {"facecolor": colour, "alpha": FILL + 0.1}
    return entries


def _words(card: FrameCard) -> Words:
    record = card.record
    words = head_words(record, _SIDE)
    if card.asked:
        words.append((wrap(card.asked, _SIDE, 8, 3, label="asked for:  "), 8, {}))
    true = _ABSENT if marks_of(record.get("truth"))[2] else "" if card.asked else str(record.get("reference"))
    if true:
        words.append((wrap(true, _SIDE, 8, 3, keep_end=True, label="true:  "), 8, {"color": TRUE}))
    if marks_of(record.get("parsed"))[2]:
        words.append((wrap(_ABSENT, _SIDE, 8, 1, label="read as:  "), 8, {"color": SAID}))
    words.append((wrap(str(record.get("answer", "")), _SIDE, 8, 5, keep_end=True, label="answer:  "), 8, {}))
    return words + lost_words(card.media.lost, _SIDE)


def _draw(axes: Any, card: FrameCard) -> None:
    if card.media.images:
        axes.imshow(card.media.images[0], extent=(0, 224, 224, 0))
    for mask, colour in ((card.true_mask, TRUE), (card.pred_mask, SAID)):
        if mask is not None:
            draw_mask(axes, mask, colour, fill=True, side=224, linewidths=1.4)
    for key, colour, style, marker in (("truth", TRUE, "--", "D"), ("parsed", SAID, "-", "o")):
        box, points, _ = marks_of(card.record.get(key))
        if box is not None:
            _box(axes, box, colour, style)
        if points:
            x, y = zip(*((px + 0.5, py + 0.5) for px, py in points), strict=True)
            axes.scatter(x, y, s=62, c=colour, marker=marker, edgecolors="white", linewidths=1.2, zorder=6)
    axes.set_xlim(0, 224)
    axes.set_ylim(224, 0)
    axes.set_xticks([])
    axes.set_yticks([])


def _box(axes: Any, box: Sequence[float], colour: str, style: str) -> None:
    from matplotlib.patches import Rectangle

    # A box may be outside the frame; it is then drawn along the edge.
    x1, y1, x2, y2 = (min(max(float(v), 1.0), 223.0) for v in box)
    for edge, width, line in (("white", 3.6, "-"), (colour, 2.0, style)):
        axes.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width, linestyle=line,
                zorder=5,
            )
        )  # fmt: skip
