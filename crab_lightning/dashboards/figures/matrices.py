"""Draws confusion matrices and the heat map of the routers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crab_lightning.dashboards.figures.sheet import GREY, Record, Sheet, cut

OTHER, UNREAD = "another answer", "unreadable"
_LONGEST_NAME = 48
_LETTER_IN = 0.075


@dataclass
class Confusion:
    """A confusion matrix.

    Args:
        names: The true answers, sorted; the names of the rows.
        columns: The names of the columns: those of the rows, and ``another answer`` and ``unreadable`` if
            there are such answers.
        counts: Numbers of answers, ``(rows, columns)``.
    """

    names: list[str]
    columns: list[str]
    counts: NDArray[np.int64]


def confusion_of(records: Iterable[Record], most: int = 60, fewest: int = 10) -> Confusion | None:
    """Return the confusion matrix of a dataset.

    Args:
        records: Prediction records of the dataset.
        most: Largest number of classes.
        fewest: Smallest number of answers.

    Returns:
        The matrix; ``None`` if there are fewer answers or more classes, or the true answers are not class
        names (or the choices 1 and 2), as for events, boxes and captions.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for record in records:
        truth, said = record.get("truth"), record.get("parsed")
        if not (isinstance(truth, str) or truth in (1, 2)) or isinstance(truth, bool):
            return None
        if len(str(truth)) > _LONGEST_NAME:
            return None
        pairs[str(truth), UNREAD if said is None else str(said)] += 1
    names = sorted({truth for truth, _ in pairs})
    if not 2 <= len(names) <= most or pairs.total() < fewest:
        return None
    said = {s for _, s in pairs}
    columns = [*names, *([OTHER] if said - {*names, UNREAD} else []), *([UNREAD] if UNREAD in said else [])]
    counts = np.zeros((len(names), len(columns)), np.int64)
    for (truth, answer), count in pairs.items():
        counts[names.index(truth), columns.index(answer if answer in columns else OTHER)] += count
    return Confusion(names, columns, counts)


def confusion_figure(title: str, confusion: Confusion) -> Any:
    """Return a figure of a confusion matrix, with counts, and fractions of each row as shades of blue."""
    names, columns, counts = confusion.names, confusion.columns, confusion.counts
    side = 0.42 if len(names) <= 15 else 0.26
    labels = [cut(name, 24) for name in columns]
    margin = 0.25 + _LETTER_IN * max(len(cut(name, 24)) for name in names)
    above = 0.78 + _LETTER_IN * max(map(len, labels))
    width, height = side * len(columns), side * len(names)
    sheet = Sheet(max(margin + width + 1.5, 5.2), above + height + 0.3)
    right = int(np.trace(counts[:, : len(names)]))
    sheet.text(0.15, 0.1, title, 11, weight="bold")
    sheet.text(
        0.15, 0.34,
        f"{right} of {counts.sum()} answers are right. Row: true answer. Column: answer of the model.",
        8, color=GREY,
    )  # fmt: skip
    axes = sheet.axes(margin, above, width, height)
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 8 if side > 0.3 else 6.5
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(
            column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=size, color=colour
        )
    from matplotlib.patches import Rectangle

    for place in range(len(names)):  # the diagonal: right answers
        axes.add_patch(
            Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="#222222", linewidth=1)
        )
    _ticks(axes, labels, [cut(name, 24) for name in names], size, 90 if max(map(len, labels)) > 2 else 0)
    if len(columns) > len(names):
        axes.axvline(len(names) - 0.5, color="#222222", linewidth=2)
    bar = sheet.axes(margin + width + 0.3, above, 0.14, min(height, 3.0))
    sheet.figure.colorbar(image, cax=bar, ticks=[0, 0.5, 1])
    bar.set_ylabel("fraction of the row", fontsize=7.5)
    bar.tick_params(labelsize=7.5)
    return sheet.figure


def _ticks(axes: Any, columns: Sequence[str], rows: Sequence[str], size: float, turned: float) -> None:
    axes.set_xticks(range(len(columns)), columns, rotation=turned, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=size, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)


def routes_figure(title: str, routes: Mapping[str, NDArray[np.float64]], groups: Mapping[str, str]) -> Any:
    """Return a figure of the routes: mean route by dataset and head, and differences by layer.

    Args:
        title: Title of the figure.
        routes: Dataset -> mean routes ``(layers, heads)``; the sum of each row is 1.
        groups: Dataset -> task, printed after the dataset.
    """
    datasets = list(routes)
    values = np.stack([routes[name] for name in datasets])  # (datasets, layers, heads)
    count, layers, heads = values.shape
    labels = [cut(f"{name}  ({groups.get(name, '')})", 40) for name in datasets]
    side = 0.27
    margin = 0.2 + 0.068 * max(map(len, labels))
    first = max(0.62 * heads, 1.3)
    each = min(max(0.16 * layers, 0.9), 3.0)
    above, height = 1.0, side * count
    sheet = Sheet(margin + first + 1.2 + heads * (each + 0.15) + 1.0, above + height + 0.55)
    sheet.text(0.15, 0.1, title, 11, weight="bold")
    sheet.text(margin, 0.5, "weight, mean of all layers", 8.5, weight="bold")
    axes = sheet.axes(margin, above, first, height)
    means = values.mean(1)
    spread = max(float(np.abs(means - 1 / heads).max()), 0.02)
    axes.imshow(means, cmap="PuOr", vmin=1 / heads - spread, vmax=1 / heads + spread, aspect="auto")
    for row in range(count):
        for head in range(heads):
            dark = abs(means[row, head] - 1 / heads) > 0.65 * spread
            axes.text(
                head, row, f"{means[row, head]:.3f}", ha="center", va="center", fontsize=7.5,
                color="white" if dark else "black",
            )  # fmt: skip
    _ticks(axes, [f"head {h + 1}" for h in range(heads)], labels, 8, 0)
    left = margin + first + 0.75
    sheet.text(left, 0.5, "in each layer: weight minus the mean of all datasets", 8.5, weight="bold")
    apart = values - values.mean(0, keepdims=True)
    limit = max(float(np.abs(apart).max()), 0.01)
    image = None
    for head in range(heads):
        panel = sheet.axes(left + head * (each + 0.15), above, each, height)
        image = panel.imshow(apart[:, :, head], cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        panel.set_title(f"head {head + 1}", fontsize=8, pad=4)
        panel.set_yticks([])
        ticks = list(range(0, layers, max(layers // 6, 1)))
        panel.set_xticks(ticks, [str(t) for t in ticks], fontsize=7)
        panel.set_xlabel("layer", fontsize=7.5, labelpad=1)
        panel.tick_params(length=2)
    bar = sheet.axes(left + heads * (each + 0.15) + 0.1, above, 0.14, min(height, 3.0))
    sheet.figure.colorbar(image, cax=bar)
    bar.set_ylabel("difference of the weight", fontsize=7.5)
    bar.tick_params(labelsize=7)
    return sheet.figure
