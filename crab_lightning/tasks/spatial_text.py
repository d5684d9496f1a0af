"""Reads boxes and points from a model's answer, for segmentation and grounding.

Coordinates are whole pixels of the 224-pixel frame to which every image is resized, in digits of any script.
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

from crab_lightning.tasks.answers import cut_end_tokens, tag_bodies

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
    """The content of an answer: a box, points inside the object, or the statement that it is absent.

    Args:
        box_xyxy_px: First box of the answer.
        points_xy_px: Last three points of the answer, or fewer.
        absent: True if the answer says that the object does not exist, which means an empty mask.
    """

    box_xyxy_px: Box | None = None
    points_xy_px: tuple[Point, ...] = ()
    absent: bool = False


@dataclass(frozen=True)
class Reading:
    """The result of reading an answer.

    Args:
        status: ``ok``, ``empty_mask``, or the reason why the answer was rejected.
        prompt: Content of the answer; ``None`` if it was rejected.
    """

    status: Status
    prompt: SpatialPrompt | None = None


def coordinate_groups(text: str, *, lenient: bool = False) -> list[str]:
    """Return the groups of two or four numbers in square brackets before the first end token, as written."""
    pattern = _LENIENT if lenient else _STRICT
    return [match[0] for match in pattern.finditer(text.split("</s>", 1)[0])]


def read_box_and_points(text: str, *, lenient: bool = False) -> Reading:
    """Read the box and points of a sounding object (AVSBench).

    The first group of four numbers is the box, and the last three groups of two numbers are the points. A box
    needs at least one point; without a box there must be three points.

    Args:
        text: A model's answer.
        lenient: Also accept spaces inside the brackets, decimals (rounded half up), 224 as the right or lower
            side of a box (read as 223), and decimals from 0 to 1 as fractions of the frame's side. The
            results are then not comparable with those of the released scripts.
    """
    box, points = _coordinates(text, lenient)
    if box is None and not points:
        return Reading("coordinate_extraction_failed")
    if len(points) < (3 if box is None else 1):
        return Reading("insufficient_coordinates")
    return _validated(box, points[-3:])


def read_referred_object(text: str, *, lenient: bool = False) -> Reading:
    """Read the box and points of a referred object (Ref-AVS).

    ``<answer>false</answer>`` at any place means that there is no such object. Otherwise the text must
    contain ``<answer>true</answer>`` and a box or at least one point.

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
    """Read one box (ARIG): the first four numbers in square brackets, or else two pairs in round brackets.

    Spaces are allowed. If ``<obj>`` tags enclose two pairs, the last such tags count, so that numbers in the
    reasoning are not read; otherwise the first two pairs of the text count.

    Args:
        text: A model's answer.
        lenient: If there is no such box, also read decimals (rounded half up), and decimals from 0 to 1 as
            fractions of the frame's side.

    Returns:
        The corners as written, also those of an empty box or of a box outside the frame; ``None`` without a
        box.
    """
    text = cut_end_tokens(text)
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
    """Return the box with the (lower) median of each side of the boxes that are not ``None``.

    Raises:
        ValueError: If there is no box.
    """
    known = [box for box in boxes if box is not None]
    if not known:
        raise ValueError(f"there is no majority answer: none of {len(boxes)} rows contains a box")
    x1, y1, x2, y2 = (median_low(side) for side in zip(*known, strict=True))
    return x1, y1, x2, y2


def _coordinates(text: str, lenient: bool) -> tuple[Box | None, list[Point]]:
    """Return the first box and all points, without a check."""
    pattern = _LENIENT if lenient else _STRICT
    box: Box | None = None
    points: list[Point] = []
    groups = [
        [number for number in match.groups() if number is not None]
        for match in pattern.finditer(text.split("</s>", 1)[0])
    ]
    shares = lenient and any(_are_shares(group) for group in groups)
    for group in groups:
        # 0 and 1 without a decimal point are fractions if another group has fractions, else pixels.
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
    """Return whether coordinates are fractions of the side: at most 1, and one has a decimal point."""
    return any("." in number for number in group) and all(float(number) <= 1 for number in group)


def _pixel(share: float) -> int:
    """Return the pixel at a fraction of the frame's side; 1 gives the last pixel."""
    return min(math.floor(share * FRAME_PX + 0.5), FRAME_PX - 1)


def _whole(number: str) -> int:
    """Return a number rounded half up; only 12 characters are read, as larger numbers are rejected anyway."""
    return math.floor(float(number[:12]) + 0.5) if "." in number else int(number[:12])


def _validated(box: Box | None, points: list[Point]) -> Reading:
    """Return the reading of a box and points; it is rejected if one of them is outside the frame."""
    if box is not None:
        x1, y1, x2, y2 = box
        if x2 >= FRAME_PX or y2 >= FRAME_PX or x1 >= x2 or y1 >= y2:
            return Reading("invalid_coordinates")
    if any(coordinate >= FRAME_PX for point in points for coordinate in point):
        return Reading("invalid_coordinates")
    return Reading("ok", SpatialPrompt(box, tuple(points)))
