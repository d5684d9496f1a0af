"""Makes a prompt from a mask: a box and the centres of the largest inscribed circles (paper, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
MAX_IOU = 0.3
"""Largest IoU of two of the circles. The paper gives no value. With this value, three points on a disc are
more than half the radius of the disc apart."""
POINTS = 3


@dataclass(frozen=True)
class Prompt:
    """The input of a mask decoder, in pixels of one image; pixel centres are whole numbers.

    Args:
        box_xyxy_px: First and last pixel inside, x1, y1, x2, y2; ``None`` without a box.
        points_xy_px: Points on the object; the centre of the largest inscribed circle comes first.
        names: Names of objects to find, such as ``lawn mower``, for decoders that read names.
    """

    box_xyxy_px: tuple[float, float, float, float] | None = None
    points_xy_px: tuple[tuple[float, float], ...] = ()
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the prompt has a box or points; names do not count."""
        return self.box_xyxy_px is not None or bool(self.points_xy_px)

    def scaled(self, frame: tuple[int, int], image: tuple[int, int]) -> Prompt:
        """Return the prompt with coordinates of the image instead of coordinates of the frame.

        Pixel ``i`` of the frame covers ``[i, i + 1)``. A box becomes the part of the image that the pixels of
        the box cover. A point becomes the image position of the centre of its pixel.

        Args:
            frame: Height and width of the frame to which the coordinates of the answer refer.
            image: Height and width of the image that is segmented.
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
    """Return the first and last column and row inside a mask as x1, y1, x2, y2; ``None`` if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def circle_iou(
    radius: NDArray[np.float64], other: float, distance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the intersection over union of each of many circles with one circle.

    Args:
        radius: Radii, positive, of any shape.
        other: Radius of the one circle, positive.
        distance: Distances between the centres, of the same shape.

    Returns:
        The intersection over union of each pair, of the same shape.
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

    The centre of a circle is a pixel of the mask. The radius is the distance to the nearest pixel outside the
    mask; pixels beyond the image are outside. Each next circle is the largest one whose IoU with every chosen
    circle is at most ``max_iou``. Among equally large circles, the first one is the nearest to the mask's
    centre of mass, and a later one is the farthest from the chosen circles; then the topmost, then the
    leftmost.

    Args:
        mask: bool ``(H, W)``.
        count: Largest number of circles.
        max_iou: Largest IoU of any two circles, in [0, 1).

    Returns:
        Column, row and radius of up to ``count`` circles; a small mask may have fewer.

    Raises:
        ValueError: If the mask is not a bool matrix, or ``max_iou`` is outside its range.
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
    # The pixels around the enclosing box are outside the mask, so no farther pixel can be the nearest.
    radius = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(inside)  # from the top, so that the first of equal circles is the topmost
    radii = radius[rows, columns]
    preference = -np.hypot(rows - rows.mean(), columns - columns.mean())
    open_to_choice = np.ones(len(radii), bool)
    circles: list[tuple[int, int, float]] = []
    while len(circles) < count and open_to_choice.any():
        best = radii[open_to_choice].max()
        equal = np.flatnonzero(open_to_choice & (radii == best))
        # Mirrored distances may differ in the last digit. They count as equal, and the order of rows decides.
        liking = np.round(preference[equal], 6)
        chosen = equal[int(liking.argmax())]
        circles.append((x1 + int(columns[chosen]), y1 + int(rows[chosen]), float(best)))
        distance = np.hypot(rows - rows[chosen], columns - columns[chosen])
        preference = distance if len(circles) == 1 else np.minimum(preference, distance)
        open_to_choice &= circle_iou(radii, float(best), distance) <= max_iou
    return circles


def prompt_of(mask: Mask, count: int = POINTS, max_iou: float = MAX_IOU) -> Prompt | None:
    """Return the box and the points that the model learns for a mask (paper, eq. 1).

    ==================  ===================================================================================
    mask                result
    ==================  ===================================================================================
    empty               ``None``
    one pixel           a box of one pixel (x1 = x2, y1 = y2) and one point
    small               one or two points, if there is no room for more within the bound on the IoU
    thin (1 px wide)    points on the line, far from each other, because all circles are equal
    ring                points on the ring itself, never in the hole
    several parts       one box around all parts; points in the widest parts, so a small part may have none
    touching the edge   the same as if the image were surrounded by background
    ==================  ===================================================================================

    A mask that is one pixel wide or high gives such a box, which the released answer parser rejects.

    Args:
        mask: bool ``(H, W)``.
        count: Largest number of points.
        max_iou: Largest IoU of any two of the circles, in [0, 1).

    Raises:
        ValueError: If the mask is not a bool matrix, or ``max_iou`` is outside its range.
    """
    circles = inscribed_circles(mask, count, max_iou)
    box = enclosing_box(mask)
    if box is None:
        return None
    return Prompt(box, tuple((x, y) for x, y, _ in circles))


def prompt_text(prompt: Prompt) -> tuple[str, str]:
    """Return two texts without spaces: the box ``[x1,y1,x2,y2]`` and the points ``[x,y],[x,y],[x,y]``."""

    def group(numbers: Sequence[float]) -> str:
        return "[" + ",".join(str(int(number)) for number in numbers) + "]"

    return group(prompt.box_xyxy_px or ()), ",".join(map(group, prompt.points_xy_px))
