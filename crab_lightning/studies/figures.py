"""Pictures of a study: gains of the datasets, shares of the arms, coverage, deviation, gradient conflict.

Blue is a gain and orange is a harm. Colour-blind readers can tell the two colours apart, and each cell also
shows the sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crab_lightning.fonts import new_figure
from crab_lightning.metrics.scale import PERCENT, Scale
from crab_lightning.studies.transfer import ArmTransfer, Comparison, Shares

GAIN, HARM, TIE_COLOUR = "#0072b2", "#d55e00", "#999999"
_ARMS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


def figure_of(width: float, height: float) -> Any:
    """Return an empty matplotlib figure.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    return new_figure(figsize=(width, height), layout="constrained")


def gains_figure(
    arms: Sequence[ArmTransfer], by: str = "score", names: Mapping[str, str] | None = None
) -> Any:
    """Draw the gain or harm of every dataset in every arm, like Figure 1 of the Crab+ paper.

    Args:
        arms: The measured gains of the arms.
        by: ``score`` for the gain of the primary metric, ``loss`` for that of the validation loss.
        names: Names of the datasets by key; by default, the keys are shown.
    """
    keys = list(dict.fromkeys(row.dataset for arm in arms for row in arm.rows))
    figure = figure_of(max(6.5, 1.8 + 0.72 * len(keys)), 1.5 + 0.62 * len(arms))
    axes = figure.subplots()
    units = set()
    for line, arm in enumerate(arms):
        found = {row.dataset: row for row in arm.rows}
        for column, key in enumerate(keys):
            row = found.get(key)
            compared = None if row is None else row.score if by == "score" else row.loss
            if row is None or compared is None:
                axes.text(column, line, "–", ha="center", va="center", color=TIE_COLOUR)
            else:
                units.add(row.scale.unit)
                _cell(axes, column, line, compared, row.scale if by == "score" else None)
    axes.set_xlim(-0.5, len(keys) - 0.5)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    shown = [(names or {}).get(key, key) for key in keys]
    axes.set_xticks(range(len(keys)), shown, rotation=40, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(arms)), [arm.arm for arm in arms], fontsize=9, parse_math=False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    points = "points" if units <= {PERCENT} else "points or the unit named"
    unit = points if by == "score" else "nats per target token"
    axes.set_title(f"Gain of learning together, in {unit}; bold: certain after Holm", fontsize=10, loc="left")
    return figure


def _cell(axes: Any, x: int, y: int, found: Comparison, scale: Scale | None) -> None:
    from matplotlib.patches import Rectangle

    gain = found.gain
    colour = GAIN if gain.value > 0 else HARM if gain.value < 0 else TIE_COLOUR
    alpha = 0.85 if gain.certain else 0.28
    axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=colour, alpha=alpha, linewidth=0))
    text = f"{gain.value:+.3f}"
    if scale is not None:
        percent = scale.unit == PERCENT
        text = f"{100 * gain.value:+.1f}" if percent else f"{gain.value:+.2f} {scale.unit}".rstrip()
    axes.text(
        x, y, "0" if gain.value == 0 else text.replace("-", "−"), ha="center", va="center", fontsize=8,
        color="white" if gain.certain else "black", weight="bold" if gain.certain else "normal",
    )  # fmt: skip


def shares_figure(arms: Sequence[ArmTransfer]) -> Any:
    """Draw gain share, harmed share and net score of every arm with intervals, like Figure 6 of the paper."""
    parts = [("by score", {a.arm: a.shares for a in arms})]
    if any(a.loss_shares for a in arms):
        parts.append(("by validation loss", {a.arm: a.loss_shares for a in arms if a.loss_shares}))
    figure = figure_of(max(6.5, 1.6 + 1.5 * len(arms) * len(parts)), 3.4)
    for axes, (title, shares) in zip(np.atleast_1d(figure.subplots(1, len(parts))), parts, strict=True):
        _bars(axes, title, shares)
    return figure


def _bars(axes: Any, title: str, shares: Mapping[str, Shares]) -> None:
    places = np.arange(len(shares))
    for shift, (name, label, colour, hatch) in enumerate(
        (("gain", "gain share", GAIN, ""), ("harmed", "harmed share", HARM, "//"),
         ("net", "net score", "#555555", ".."))
    ):  # fmt: skip
        found = [getattr(one, name) for one in shares.values()]
        value, low, high = 100 * np.array([(one.value, one.low, one.high) for one in found], float).T
        # The share itself may lie outside the interval of the resampled shares.
        error = np.maximum([value - low, high - value], 0)
        axes.bar(
            places + 0.27 * (shift - 1), value, 0.25, color=colour, hatch=hatch, edgecolor="white",
            yerr=error, capsize=2, error_kw={"elinewidth": 0.9}, label=label,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(-105, 105)
    _labelled(axes, list(shares), "% of datasets", title)
    # Above the bars: below the title, bars can reach every place.
    axes.legend(
        fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2, frameon=False
    )


def _labelled(axes: Any, names: Sequence[str], values: str, title: str, **turned: Any) -> None:
    axes.set_xticks(range(len(names)), names, fontsize=8, parse_math=False, **turned)
    axes.set_ylabel(values, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)


def coverage_figure(coverage: Mapping[str, Mapping[str, float]], regime: str = "multi") -> Any:
    """Draw the share of the datasets on which each arm is the best, like Figure 10 of the Crab+ paper.

    Args:
        coverage: For each arm, fractions of the datasets: ``best`` (this arm alone is the best), ``tied``
            (together with others), and optionally ``gain`` (better than trained alone).
        regime: The regime in which the arms are compared.
    """
    figure = figure_of(max(5.5, 1.8 + 1.3 * len(coverage)), 3.2)
    axes = figure.subplots()
    places = np.arange(len(coverage))
    best, tied = ([100 * shares[key] for shares in coverage.values()] for key in ("best", "tied"))
    axes.bar(places - 0.2, best, 0.36, color=GAIN, label="best of all arms")
    axes.bar(places - 0.2, tied, 0.36, bottom=best, color="#9ecae1", hatch="..", label="tied for the best")
    gains = [100 * shares.get("gain", np.nan) for shares in coverage.values()]
    if np.isfinite(gains).any():
        axes.bar(
            places + 0.2, gains, 0.36, color="#e69f00", hatch="//", edgecolor="white",
            label="better than trained alone",
        )  # fmt: skip
    axes.set_ylim(0, 105)
    axes.legend(fontsize=7)
    title = f"Datasets on which an arm is the best, regime {regime}"
    _labelled(axes, list(coverage), "% of datasets", title)
    return figure


def deviation_figure(
    deviation: Mapping[str, Mapping[str, float]], baseline: str, regime: str = "multi"
) -> Any:
    """Draw the difference of each arm from the first arm on each dataset, like Figure 11 of the Crab+ paper.

    Args:
        deviation: For each arm and dataset, the difference of the scores as a fraction. Only datasets whose
            metric is in percent belong here.
        baseline: Name of the first arm.
        regime: The regime in which the arms are compared.
    """
    names = list(dict.fromkeys(name for row in deviation.values() for name in row))
    figure = figure_of(max(5.5, 2.5 + 0.6 * len(names)), 3.2)
    axes = figure.subplots()
    width = 0.8 / max(len(deviation), 1)
    for i, (arm, row) in enumerate(deviation.items()):
        mean = 100 * float(np.mean([abs(v) for v in row.values()])) if row else 0.0
        places = [names.index(n) + width * (i + 0.5) - 0.4 for n in row]
        axes.bar(
            places, [100 * v for v in row.values()], width, color=_ARMS[i % len(_ARMS)], edgecolor="white",
            hatch=("", "//", "..", "xx")[i % 4], label=f"{arm}: mean absolute deviation {mean:.1f}",
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(fontsize=7)
    title = f"Score minus that of {baseline}, regime {regime}"
    _labelled(axes, names, "points", title, rotation=40, ha="right")
    return figure


def conflict_figure(title: str, names: Sequence[str], maps: Mapping[str, Any]) -> Any:
    """Draw the cosines between the gradients of every two datasets in one or more panels.

    Args:
        title: Title of the figure.
        names: Names of the D datasets.
        maps: Cosines ``(D, D)`` by the name of the panel.
    """
    side = max(2.2, 0.32 * len(names))
    figure = figure_of(1.6 + side * len(maps), side + 1.3)
    figure.suptitle(title, fontsize=10)
    image = None
    for axes, (name, values) in zip(np.atleast_1d(figure.subplots(1, len(maps))), maps.items(), strict=True):
        image = axes.imshow(values, cmap="PuOr_r", vmin=-1, vmax=1)
        axes.set_title(name, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
        for row in range(len(names) if len(names) <= 10 else 0):
            for column in range(len(names)):
                axes.text(
                    column, row, f"{values[row][column]:.2f}", ha="center", va="center", fontsize=6,
                    color="white" if abs(values[row][column]) > 0.6 else "black",
                )  # fmt: skip
    figure.colorbar(image, ax=figure.axes, shrink=0.7, label="cosine")
    return figure
