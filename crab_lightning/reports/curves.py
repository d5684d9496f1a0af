"""Which training curves stand where on the HTML page: a few of the whole run, a few of each dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from crab_lightning.reports.charts import line_chart

Curves = Mapping[str, Sequence[tuple[float, float]]]

_RUN = (
    ("train/loss", "val/loss"),
    ("val/mean/headline",),
    ("train/lr",),
    ("train/grad_norm",),
    ("train/tokens_per_s",),
    ("train/padding_share",),
)
"""Charts of the whole run: tags drawn into one."""


def run_curves(curves: Curves) -> str:
    """Draw the curves of the whole run, all others folded; a single point is no curve, nor is a test."""
    known = {tag: points for tag, points in curves.items() if len(points) > 1 and not tag.startswith("test/")}
    first = [{tag: known[tag] for tag in tags if tag in known} for tags in _RUN]
    shown = {tag for chart in first for tag in chart}
    rest = [line_chart({tag: points}) for tag, points in known.items() if tag not in shown]
    if not known:
        return '<p class="dim">no training curves in this run folder</p>'
    parts = [f'<div class="charts">{"".join(line_chart(chart) for chart in first if chart)}</div>']
    if rest:
        parts.append(
            f"<details><summary>All other curves ({len(rest)})</summary>"
            f'<div class="charts">{"".join(rest)}</div></details>'
        )
    return "".join(parts)


def dataset_curves(curves: Curves, task: str, key: str, headline: str | None) -> str:
    """Draw the losses and the headline of one dataset; empty where there are none."""
    losses = (f"train/loss/{key}", f"val/{task}/{key}/loss")
    charts = [
        {tag: curves[tag] for tag in tags if len(curves.get(tag, ())) > 1}
        for tags in (losses, (f"val/{task}/{key}/{headline}",))
    ]
    drawn = "".join(line_chart(chart) for chart in charts if chart)
    if not drawn:
        return ""
    return f'<details><summary>Curves of {escape(key)}</summary><div class="charts">{drawn}</div></details>'
