"""Which training curves stand where on the HTML page: a few of the whole run, a few of each dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from crab_lightning.reports.charts import TEMPLATE, line_chart
from crab_lightning.templates import draw

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


def run_curves(curves: Curves) -> Markup:
    """Draw the curves of the whole run, all others folded; the scores of a test are no curve."""
    known = {tag: points for tag, points in curves.items() if points and not tag.startswith("test/")}
    first = [{tag: known[tag] for tag in tags if tag in known} for tags in _RUN]
    shown = {tag for chart in first for tag in chart}
    rest = [line_chart({tag: points}) for tag, points in known.items() if tag not in shown]
    return draw(TEMPLATE, "run_curves", [line_chart(chart) for chart in first if chart], rest)


def dataset_curves(curves: Curves, task: str, key: str, headline: str | None) -> Markup:
    """Draw the losses and the primary metric of one dataset; empty if there are none."""
    losses = (f"train/loss/{key}", f"val/{task}/{key}/loss")
    charts = [
        {tag: curves[tag] for tag in tags if curves.get(tag)}
        for tags in (losses, (f"val/{task}/{key}/{headline}",))
    ]
    return draw(TEMPLATE, "dataset_curves", key, [line_chart(chart) for chart in charts if chart])
