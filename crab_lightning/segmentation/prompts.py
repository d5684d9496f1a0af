"""From a mask to what points at it: a box and the centres of its largest inscribed circles (paper, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
MAX_IOU = 0.3
"""Largest IoU of two of the circles. The paper names no value; this one keeps three points on a disc apart by
more than half its radius."""
POINTS = 3


@dataclass(frozen=True)
class Prompt:
    """What a mask decoder is given, in pixels of one image; pixel centres are whole numbers.

    Args:
        box_xyxy_px: First and last pixel inside, x1, y1, x2, y2; ``None`` for points alone.
        points_xy_px: Points on the object, largest inscribed circle first.
        names: What is to be found, such as ``lawn mower``, for decoders that read names.
    """

    box_xyxy_px: tuple[float, float, float, float] | None = None
    points_xy_px: tuple[tuple[float, float], ...] = ()
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the prompt points at something; names alone do not."""
        return self.box_xyxy_px is not None or bool(self.points_xy_px)

    def scaled(self, frame: tuple[int, int], image: tuple[int, int]) -> Prompt:
        """Move a prompt from the frame that an answer speaks of to the image that is segmented.

        Pixel ``i`` of the frame covers ``[i, i + 1)``. A box becomes the image pixels that its pixels cover;
        a point the image position under its pixel's centre.

        Args:
            frame: Height and width of the frame of the coordinates.
            image: Height and width of the image.
        """
        if frame == image:
            return self
        down, right = image[0] / frame[0], image[1] / frame[1]
        box = self.box_xyxy_px
        if box is not None:
            box = (box[0] * right, box[1] * down, (box[2] + 1) * right - 1, (box[3] + 1) * down - 1)
        points = tuple(((x + 0.5) * right - 0.5, (y + 0.5) * down - 0.5) for x, y in self.points_xy_px)
        return Prompt(box, points, self.names)


def enclosing_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """Return the first and last column and row inside a mask, x1, y1, x2, y2; ``None`` for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def circle_iou(
    radius: NDArray[np.float64], other: float, distance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the intersection over union of circles with one circle.

    Args:
        radius: Radii, positive, of any shape.
        other: Radius of the one circle, positive.
        distance: Distances between centres, of the same shape.
    """
    small, large = np.minimum(radius, other), np.maximum(radius, other)
    # Clipping the cosines covers circles that lie apart (angle 0) and inside each other (angle pi).
    d = np.where(distance > 0, distance, 1.0)
    inner = np.arccos(np.clip((d**2 + small**2 - large**2) / (2 * d * small), -1, 1))
    outer = np.arccos(np.clip((d**2 + large**2 - small**2) / (2 * d * large), -1, 1))
    lens = small**2 * (inner - np.sin(2 * inner) / 2) + large**2 * (outer - np.sin(2 * outer) / 2)
    lens = np.where(distance <= large - small, np.pi * small**2, lens)
    lens = np.where(distance >= small + large, 0.0, lens)
    return np.asarray(lens / (np.pi * (small**2 + large**2) - lens))


def inscribed_circles(
    mask: Mask, count: int = POINTS, max_iou: float = MAX_IOU
) -> list[tuple[int, int, float]]:
    """Return the largest inscribed circles of a mask that overlap little, largest first.

    A circle is centred on a pixel of the mask; its radius is the distance to the nearest pixel outside, where
    everything beyond the image is outside. Each next circle is the largest whose IoU with every chosen one is
    at most ``max_iou``. Of equally large ones the first is the nearest to the mask's centre of mass, a later
    one the farthest from those chosen; then the topmost, then the leftmost.

    Args:
        mask: bool ``(H, W)``.
        count: Number of circles wanted.
        max_iou: Largest IoU of any two, in [0, 1).

    Returns:
        Column, row and radius of up to ``count`` circles; fewer where a small mask has room for no more.
    """
    from scipy.ndimage import distance_transform_edt

    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask is {mask.dtype} {mask.shape}; it must be bool (height, width)")
    if not 0 <= max_iou < 1:
        raise ValueError(f"max_iou is {max_iou}; it must lie in [0, 1)")
    box = enclosing_box(mask)
    if box is None:
        return []
    x1, y1, x2, y2 = box
    inside = mask[y1 : y2 + 1, x1 : x2 + 1]
    # The pixels around the enclosing box are outside and nearer than anything beyond them.
    radius = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(inside)  # in rows from the top, so that the first of equals is the topmost
    radii = radius[rows, columns]
    preference = -np.hypot(rows - rows.mean(), columns - columns.mean())
    open_to_choice = np.ones(len(radii), bool)
    circles: list[tuple[int, int, float]] = []
    while len(circles) < count and open_to_choice.any():
        best = radii[open_to_choice].max()
        equal = np.flatnonzero(open_to_choice & (radii == best))
        # Rounding makes mirrored distances differ in the last digit; the rows' order decides between those.
        liking = np.round(preference[equal], 6)
        chosen = equal[int(liking.argmax())]
        circles.append((x1 + int(columns[chosen]), y1 + int(rows[chosen]), float(best)))
        distance = np.hypot(rows - rows[chosen], columns - columns[chosen])
        preference = distance if len(circles) == 1 else np.minimum(preference, distance)
        open_to_choice &= circle_iou(radii, float(best), distance) <= max_iou
    return circles


def prompt_of(mask: Mask, count: int = POINTS, max_iou: float = MAX_IOU) -> Prompt | None:
    """Return the box and the points that a mask is taught by (paper, eq. 1).

    ==================  ===================================================================================
    mask                result
    ==================  ===================================================================================
    empty               ``None``
    one pixel           a box of one pixel (x1 = x2, y1 = y2) and one point
    small               the points that fit, one or two: the bound on the IoU is never relaxed
    thin (1 px wide)    points on the line, spread out: all circles are equal
    ring                points in its band, never in its hole
    several parts       one box around all; points in the widest parts, so that a small part may have none
    touching the edge   as if the image were surrounded by background
    ==================  ===================================================================================

    A box one pixel wide or high is what the mask has; the released answer parser rejects such boxes.

    Args:
        mask: bool ``(H, W)``.
        count: Largest number of points.
        max_iou: Largest IoU of any two of the circles, in [0, 1).

    Raises:
        ValueError: If the mask is no bool matrix or the bound lies outside its range.
    """
    circles = inscribed_circles(mask, count, max_iou)
    box = enclosing_box(mask)
    if box is None:
        return None
    return Prompt(box, tuple((x, y) for x, y, _ in circles))


def prompt_text(prompt: Prompt) -> tuple[str, str]:
    """Return a box as ``[x1,y1,x2,y2]`` and points as ``[x,y],[x,y],[x,y]``, without blanks."""

    def group(numbers: Sequence[float]) -> str:
        return "[" + ",".join(str(int(number)) for number in numbers) + "]"

    return group(prompt.box_xyxy_px or ()), ",".join(map(group, prompt.points_xy_px))
