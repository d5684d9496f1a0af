"""Pictures of masks: one frame with the answered and the true mask, and sheets of many frames."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crab_lightning.files import replace_bytes
from crab_lightning.fonts import new_figure
from crab_lightning.segmentation.prompts import Prompt

# Colours of Okabe and Ito, which colour-blind readers can distinguish, also where two masks overlap.
FOUND, TRUE, MARK = "#d55e00", "#0072b2", "#f0e442"
FILL = 0.35
"""Opacity of a filled mask."""


@dataclass(frozen=True, eq=False)
class Overlay:
    """One frame and the masks, prompt and texts that are drawn with it.

    Args:
        image: RGB, uint8 ``(3, H, W)``.
        pred: Answered mask, bool ``(H, W)``.
        truth: True mask, bool ``(H, W)``.
        prompt: Box and points that the mask decoder got, in pixels of the image.
        title: Text above the frame.
        scores: Fractions that are printed below the frame in percent, such as ``{"J": 0.91, "F": 0.95}``.
        note: Text below the frame, for example the answer.
    """

    image: Tensor
    pred: Tensor | None = None
    truth: Tensor | None = None
    prompt: Prompt | None = None
    title: str = ""
    scores: dict[str, float] | None = None
    note: str = ""


def draw_overlay(axes: Any, overlay: Overlay, *, size: float = 8.0, legend: bool = True) -> None:
    """Draw one overlay into matplotlib axes.

    An answered mask is filled orange with a solid outline, and a true mask is a dashed blue outline. The box
    and the points are yellow with a black border, so that they are visible on any picture.

    Args:
        axes: Matplotlib axes.
        overlay: What to draw.
        size: Font size.
        legend: Whether to explain the colours below the frame.
    """
    from matplotlib.patches import Rectangle

    axes.imshow(overlay.image.permute(1, 2, 0).numpy())
    if overlay.pred is not None:
        draw_mask(axes, overlay.pred.numpy(), FOUND, fill=True, linewidths=1.6)
    if overlay.truth is not None:
        draw_mask(axes, overlay.truth.numpy(), TRUE, fill=False, linewidths=1.6, linestyles="dashed")
    if overlay.prompt is not None:
        if overlay.prompt.box_xyxy_px is not None:
            x1, y1, x2, y2 = overlay.prompt.box_xyxy_px
            for colour, width in (("black", 2.4), (MARK, 1.2)):
                corner, wide, high = (x1 - 0.5, y1 - 0.5), x2 - x1 + 1, y2 - y1 + 1
                axes.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor=colour, linewidth=width))
        if overlay.prompt.points_xy_px:
            x, y = zip(*overlay.prompt.points_xy_px, strict=True)
            axes.scatter(x, y, s=26, c=MARK, marker="o", edgecolors="black", linewidths=1.0, zorder=5)
    axes.set_xlim(-0.5, overlay.image.shape[2] - 0.5)
    axes.set_ylim(overlay.image.shape[1] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(overlay.title, fontsize=size, loc="left")
    words = ["  ".join(f"{name} {100 * value:.1f}" for name, value in (overlay.scores or {}).items())]
    masks = (("answered", overlay.pred), ("true", overlay.truth))
    empty = [said for said, mask in masks if mask is not None and not mask.any()]
    if empty:
        words.append(f"{' and '.join(empty)} mask{'s' if len(empty) > 1 else ''}: empty")
    words += textwrap.wrap(overlay.note, 46, max_lines=3, placeholder=" …")
    handles = _legend([overlay]) if legend else []
    if handles:  # below the frame: inside, a legend would cover objects
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, fontsize=size - 1,
            frameon=False, handlelength=1.4, columnspacing=1.0, borderaxespad=0.1,
        ).set_in_layout(True)  # fmt: skip
    below = "\n".join(line for line in words if line)
    axes.set_xlabel(below, fontsize=size - 1, labelpad=2.2 * size if handles else 2)


def _legend(overlays: Sequence[Overlay]) -> list[Any]:
    """Return the entries of a legend for the marks in some overlays."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if any(overlay.pred is not None for overlay in overlays):
        handles.append(Patch(facecolor=FOUND, edgecolor=FOUND, alpha=0.7, label="answered mask"))
    if any(overlay.truth is not None for overlay in overlays):
        handles.append(Line2D([], [], color=TRUE, linestyle="dashed", label="true mask"))
    if any(overlay.prompt is not None for overlay in overlays):
        mark: dict[str, Any] = {"marker": "o", "markerfacecolor": MARK, "markeredgecolor": "black"}
        handles.append(Line2D([], [], color="black", label="answered box and points", **mark))
    return handles


def draw_mask(
    axes: Any, mask: NDArray[np.bool_], colour: str, *, fill: bool, side: float | None = None, **line: Any
) -> None:
    """Draw the outline of a mask into matplotlib axes; an empty mask has none.

    Args:
        axes: Matplotlib axes.
        mask: bool ``(H, W)``.
        colour: Colour of the outline and of the area.
        fill: Whether the area is filled too.
        side: Height and width of the mask in units of the axes, from 0. When left out, the centres of its
            pixels are whole numbers.
        line: Options of the outline.
    """
    if not mask.any():
        return
    begin, size = (-0.5, mask.shape) if side is None else (0.0, (side, side))
    if fill:
        from matplotlib.colors import to_rgb

        layer = np.zeros((*mask.shape, 4), np.float32)
        layer[mask] = (*to_rgb(colour), FILL)
        axes.imshow(layer, interpolation="nearest", extent=(begin, begin + size[1], begin + size[0], begin))
    # With padding, the outline of a mask that touches the edge is closed.
    places = (begin + (np.arange(-1, n + 1) + 0.5) * s / n for n, s in zip(mask.shape, size, strict=True))
    rows, columns = places
    axes.contour(columns, rows, np.pad(mask.astype(np.float32), 1), levels=[0.5], colors=[colour], **line)


def painted(frame: NDArray[np.uint8], mask: NDArray[np.bool_], prompt: Prompt | None) -> NDArray[np.uint8]:
    """Return a copy of a video frame with a mask, and a prompt if there is one, drawn on it.

    Args:
        frame: RGB, uint8 ``(H, W, 3)``.
        mask: bool ``(H, W)``; it is drawn in orange with an outline.
        prompt: Box and points in pixels of the frame; they are drawn in yellow with a black border.
    """
    from matplotlib.colors import to_rgb
    from PIL import Image, ImageDraw
    from scipy.ndimage import binary_dilation

    out = frame.copy()
    colour = (255 * np.array(to_rgb(FOUND))).astype(np.uint8)
    thick = max(1, round(min(mask.shape) / 240))
    out[mask] = ((1 - FILL) * out[mask] + FILL * colour).astype(np.uint8)
    if mask.any():
        out[binary_dilation(mask, iterations=thick) & ~mask] = colour
    if prompt is None:
        return out
    picture = Image.fromarray(out)
    pen = ImageDraw.Draw(picture)
    if prompt.box_xyxy_px is not None:
        x1, y1, x2, y2 = prompt.box_xyxy_px
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=thick + 2)
        pen.rectangle((x1, y1, x2, y2), outline=MARK, width=thick)
    for x, y in prompt.points_xy_px:
        pen.circle((x, y), 3 * thick + 1, fill=MARK, outline="black", width=thick)
    return np.array(picture)


def overlay_figure(overlay: Overlay, width_in: float = 4.5) -> Any:
    """Return one overlay as a matplotlib figure; it belongs to no display and needs no closing."""
    height, width = overlay.image.shape[-2:]
    extra = 0.8 + (0.5 if overlay.note else 0.0)
    figure = new_figure(figsize=(width_in, width_in * height / width + extra), dpi=150, layout="constrained")
    draw_overlay(figure.subplots(), overlay)
    return figure


def contact_sheet(rows: Sequence[tuple[str, Sequence[Overlay]]], title: str = "") -> Any:
    """Return rows of overlays as one matplotlib figure.

    Args:
        rows: Name of each row, such as ``best``, and the overlays of the row.
        title: Title of the figure.

    Raises:
        ValueError: If there is no overlay.
    """
    columns = max((len(overlays) for _, overlays in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one overlay")
    figure = new_figure(figsize=(2.7 * columns + 0.4, 3.6 * len(rows) + 0.4), dpi=130, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, overlays), places in zip(rows, grid, strict=True):
        for axes in places[len(overlays) :]:
            axes.axis("off")
        for axes, overlay in zip(places, overlays, strict=False):
            draw_overlay(axes, overlay, size=7.5, legend=False)
        places[0].set_ylabel(name, fontsize=10, fontweight="bold")
    if handles := _legend([overlay for _, overlays in rows for overlay in overlays]):
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def best_median_worst(scores: Sequence[float], each: int = 3) -> dict[str, list[int]]:
    """Return the positions of the best, the median and the worst scores; the three lists are disjoint.

    With fewer than ``3 * each`` scores, the best are chosen first, then the worst, then the median.

    Args:
        scores: Scores; a higher score is better.
        each: Length of each list.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    best = order[:each]
    worst = order[each:][::-1][:each]
    rest = order[each : len(order) - len(worst)]
    middle = max(0, (len(rest) - each) // 2)
    return {"best": best, "median": rest[middle : middle + each], "worst": worst}


def figure_png(figure: Any) -> bytes:
    """Return a figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.1)  # includes long notes below
    return buffer.getvalue()


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure as a PNG file and return the path; the folder is made if it does not exist."""
    replace_bytes(path, figure_png(figure))
    return path
