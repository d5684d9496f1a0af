"""Boxes and points in a model's answer, for segmentation and grounding.

Coordinates are whole pixels of the 224-pixel frame that every image is stretched to, in digits of any script.
The rules are those of the released evaluation scripts (GeWu-Lab/Crab_Plus seg/scripts/inference_3.py and
inference_ref_3.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal

from crab_lightning.tasks.answers import tag_bodies

FRAME_PX = 224
ABSENT = "<answer>false</answer>"

Box = tuple[int, int, int, int]
Point = tuple[int, int]
Status = Literal[
    "ok", "empty_mask", "coordinate_extraction_failed", "insufficient_coordinates", "invalid_coordinates"
]

_STRICT = re.compile(r"\[(\d+),(\d+)(?:,(\d+),(\d+))?\]")
_DECIMAL = r"\s*(\d+(?:\.\d+)?)\s*"
_LENIENT = re.compile(rf"\[{_DECIMAL},{_DECIMAL}(?:,{_DECIMAL},{_DECIMAL})?\]")
_SPACED_BOX = re.compile(r"\[" + ",".join([r"\s*(\d{1,9})\s*"] * 4) + r"\]")
_LOOSE_BOX = re.compile(rf"[\[(]{_DECIMAL},{_DECIMAL}(?:,|[\])]\s*,?\s*[\[(]){_DECIMAL},{_DECIMAL}[\])]")
_ROUND_PAIR = re.compile(r"\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)")


@dataclass(frozen=True)
class SpatialPrompt:
    """What a segmenter is given: a box, points inside the object, or the statement that there is none.

    Args:
        box_xyxy_px: First box of the answer.
        points_xy_px: Last three points of the answer, or fewer.
        absent: True when the answer says that the object does not exist: an empty mask.
    """

    box_xyxy_px: Box | None = None
    points_xy_px: tuple[Point, ...] = ()
    absent: bool = False


@dataclass(frozen=True)
class Reading:
    """A read answer.

    Args:
        status: ``ok``, ``empty_mask``, or why it was rejected.
        prompt: What it says; ``None`` when it was rejected.
    """

    status: Status
    prompt: SpatialPrompt | None = None


def coordinate_groups(text: str, *, lenient: bool = False) -> list[str]:
    """Return the bracketed groups of two or four numbers, as they are written, up to the first end token."""
    pattern = _LENIENT if lenient else _STRICT
    return [match[0] for match in pattern.finditer(text.split("</s>", 1)[0])]


def read_box_and_points(text: str, *, lenient: bool = False) -> Reading:
    """Read the prompt of a sounding object (AVSBench).

    The first group of four is the box, the last three groups of two are the points. A box needs at least one
    point; without a box there have to be three.

    Args:
        text: A model's answer.
        lenient: Also accept blanks inside the brackets, decimals (rounded half up), 224 as the far side of a
            box (taken as 223), and decimals from 0 to 1 as fractions of the frame's side. Results with it are
            not those of the released scripts.
    """
    box, points = _coordinates(text, lenient)
    if box is None and not points:
        return Reading("coordinate_extraction_failed")
    if len(points) < (3 if box is None else 1):
        return Reading("insufficient_coordinates")
    return _validated(box, points[-3:])


def read_referred_object(text: str, *, lenient: bool = False) -> Reading:
    """Read the prompt of a referred object (Ref-AVS).

    ``<answer>false</answer>`` anywhere means that there is no such object. Otherwise
    ``<answer>true</answer>`` has to be there; a box alone or points alone are enough.

    Args:
        text: A model's answer.
        lenient: As in :func:`read_box_and_points`.
    """
    if ABSENT in text:
        return Reading("empty_mask", SpatialPrompt(absent=True))
    if "<answer>true</answer>" not in text:
        return Reading("coordinate_extraction_failed")
    box, points = _coordinates(text, lenient)
    if box is None and not points:
        return Reading("coordinate_extraction_failed")
    return _validated(box, points[-3:])


def read_box(text: str, *, lenient: bool = False) -> Box | None:
    """Read one box (ARIG): the first bracketed group of four, else two pairs in round brackets.

    Blanks are allowed. Where ``<obj>`` tags enclose two pairs, the last such tag pair counts, so that numbers
    in the reasoning do no harm; otherwise the first two pairs of the text do.

    Args:
        text: A model's answer.
        lenient: Where there is no such box, also read decimals (rounded half up), and decimals from 0 to 1 as
            fractions of the frame's side.

    Returns:
        The corners as written, also when they enclose nothing or lie outside the frame (such a box overlaps
        less, it is not unreadable); ``None`` without a box.
    """
    text = text.split("</s>", 1)[0].split("<|im_end|>", 1)[0]
    if match := _SPACED_BOX.search(text):
        return int(match[1]), int(match[2]), int(match[3]), int(match[4])
    bodies = [body for _, _, _, body in tag_bodies(text, "obj")]
    for part in (*reversed(bodies), text):
        corners = [(int(m[1]), int(m[2])) for m in _ROUND_PAIR.finditer(part)]
        if len(corners) >= 2:
            return (*corners[0], *corners[1])
    if lenient and (match := _LOOSE_BOX.search(text)):
        group = [number for number in match.groups() if number is not None]
        shares = _are_shares(group)
        x1, y1, x2, y2 = (_pixel(float(n)) if shares else _whole(n) for n in group)
        return x1, y1, x2, y2
    return None


def median_box(boxes: Sequence[Box | None]) -> Box:
    """Return the median of each side of the boxes that are there.

    Raises:
        ValueError: If none is.
    """
    known = [box for box in boxes if box is not None]
    if not known:
        raise ValueError(f"no majority answer: none of {len(boxes)} rows contains a box")
    x1, y1, x2, y2 = (median_low(side) for side in zip(*known, strict=True))
    return x1, y1, x2, y2


def _coordinates(text: str, lenient: bool) -> tuple[Box | None, list[Point]]:
    """Return the first box and every point, unchecked."""
    pattern = _LENIENT if lenient else _STRICT
    box: Box | None = None
    points: list[Point] = []
    groups = [
        [number for number in match.groups() if number is not None]
        for match in pattern.finditer(text.split("</s>", 1)[0])
    ]
    shares = lenient and any(_are_shares(group) for group in groups)
    for group in groups:
        # Whole zeros and ones are shares where another group is, else pixels.
        scaled = shares and all(float(number) <= 1 for number in group)
        numbers = [_pixel(float(number)) for number in group] if scaled else [_whole(n) for n in group]
        if len(numbers) == 2:
            points.append((numbers[0], numbers[1]))
        elif box is None:
            if lenient:
                numbers[2:] = [FRAME_PX - 1 if number == FRAME_PX else number for number in numbers[2:]]
            box = numbers[0], numbers[1], numbers[2], numbers[3]
    return box, points


def _are_shares(group: Sequence[str]) -> bool:
    """Tell whether coordinates are shares of the frame's side: at most 1, with a decimal point among them."""
    return any("." in number for number in group) and all(float(number) <= 1 for number in group)


def _pixel(share: float) -> int:
    """Return the pixel at a share of the frame's side, the last one at its end."""
    return min(math.floor(share * FRAME_PX + 0.5), FRAME_PX - 1)


def _whole(number: str) -> int:
    """Return a number rounded half up; what no frame can hold is cut short, it is rejected anyway."""
    return math.floor(float(number[:12]) + 0.5) if "." in number else int(number[:12])


def _validated(box: Box | None, points: list[Point]) -> Reading:
    """Reject a box or a point that does not lie in the frame."""
    if box is not None:
        x1, y1, x2, y2 = box
        if x2 >= FRAME_PX or y2 >= FRAME_PX or x1 >= x2 or y1 >= y2:
            return Reading("invalid_coordinates")
    if any(coordinate >= FRAME_PX for point in points for coordinate in point):
        return Reading("invalid_coordinates")
    return Reading("ok", SpatialPrompt(box, tuple(points)))
