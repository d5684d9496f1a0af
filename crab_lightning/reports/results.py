"""Tables of the HTML page: one row for each dataset, and all metrics of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from crab_lightning.metrics.scale import read_scale
from crab_lightning.reports.charts import TEMPLATE
from crab_lightning.reports.tables import percent
from crab_lightning.templates import draw

if TYPE_CHECKING:
    from crab_lightning.reports.page import DatasetPart

_PROTOCOLS = ("strict", "valid_only", "majority", "likelihood")


def single_metrics(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of a dataset that are one number, the primary metric first."""
    kept = {k: v for k, v in entry["strict"].items() if not isinstance(v, list)}
    return dict(sorted(kept.items(), key=lambda item: item[0] != entry["headline"]))


def results(parts: Sequence[DatasetPart], summary: Mapping[str, Any]) -> Markup:
    """Return the primary metric of every dataset beside its baseline, and the meaning of the columns."""
    weighed = any(part.entry.get("likelihood") for part in parts)
    losses = any(part.entry.get("loss") is not None for part in parts)
    head = ["dataset", "metric", "", "strict", "valid only", "majority"]
    head += ["likelihood", "calibration error"] if weighed else []
    head += ["answers", "unparsed", "cut off", "missing", *(["loss"] if losses else [])]
    rows = []
    for part in parts:
        entry, counts = part.entry, part.entry["counts"]
        metric = entry["headline"] or next(iter(single_metrics(entry)), "")
        scale = read_scale(entry, metric)
        values = {p: (entry.get(p) or {}).get(metric) for p in _PROTOCOLS}
        row = {
            "key": part.key,
            "title": part.title,
            "metric": scale.label(metric) if metric else "none",
            "share": scale.share(values["strict"]),
            "baseline": scale.share(values["majority"]),
            "strict": scale.text(values["strict"]),
        }
        cells = [scale.text(values["valid_only"]), scale.text(values["majority"])]
        if weighed:
            calibration = entry.get("calibration")
            cells += [scale.text(values["likelihood"]), percent(calibration["error"]) if calibration else "–"]
        cells += [f"{counts[k]:,}" for k in ("scored", "unparsed", "truncated", "missing")]
        if losses:
            cells.append("" if entry.get("loss") is None else f"{entry['loss']:.3f}")
        rows.append(row | {"cells": cells})
    mean = summary.get("mean") or {}
    if mean.get("headline") is not None and len(parts) > 1:
        means = [percent(mean.get(k)) for k in ("headline", "headline_valid_only", "headline_majority")]
        rows.append(
            {
                "key": "",
                "title": "mean",
                "metric": "headline, 0 to 100",
                "share": mean["headline"],
                "baseline": mean.get("headline_majority"),
                "strict": means[0],
                "cells": [*means[1:], *[""] * (len(head) - 6)],
            }
        )
    about = (
        "Shares are in percent. Strict: unreadable and missing answers are empty predictions. Valid only:"
        " over readable answers alone, as most papers report. Majority: the most frequent training answer,"
        " a line on the bar."
    )
    if weighed:
        about += (
            " Likelihood: the answer of the closed set that the model finds likeliest; nothing is parsed."
        )
    return draw(TEMPLATE, "results", about, head, rows)


def metric_table(entry: Mapping[str, Any]) -> Markup:
    """Return every single-number metric of a dataset in each protocol that it was scored in."""
    protocols = [p for p in _PROTOCOLS if entry.get(p)]
    rows = []
    for metric, value in single_metrics(entry).items():
        scale, majority = read_scale(entry, metric), (entry.get("majority") or {}).get(metric)
        cells = [scale.text(entry[p].get(metric)) for p in protocols]
        rows.append((scale.label(metric), scale.share(value), scale.share(majority), cells))
    return draw(TEMPLATE, "metrics", [p.replace("_", " ") for p in protocols], rows)
