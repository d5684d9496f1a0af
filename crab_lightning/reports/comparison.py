"""Compares runs in a table, with paired intervals and the figures of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crab_lightning.data.manifests.layout import display_name
from crab_lightning.metrics.scale import PERCENT, Scale, read_scale, units_said
from crab_lightning.reports.bootstrap import paired_difference
from crab_lightning.reports.published import (
    PublishedFigure,
    known_test_samples,
    published_figures,
    published_source,
)
from crab_lightning.reports.runs import FinishedRun
from crab_lightning.reports.tables import PlainTable, signed
from crab_lightning.spelling import did_you_mean


def comparison(
    runs: Sequence[FinishedRun],
    protocol: str = "strict",
    methods: Sequence[str] | None = None,
    *,
    all_metrics: bool = False,
    seed: int = 0,
    resamples: int = 10_000,
) -> PlainTable:
    """Return a table of the scores of runs.

    Args:
        runs: The runs. The others are compared with the first one.
        protocol: ``strict``, ``valid_only`` or ``likelihood``. For ``valid_only`` there are no paired
            intervals, because it leaves out samples with unreadable answers.
        methods: Methods of the paper to show too; ``None`` for none.
        all_metrics: Show every metric, and not only the primary metrics and those in the paper.
        seed: Seed of the bootstrap.
        resamples: Number of resamples of the bootstrap.

    Raises:
        ValueError: If a method is in none of the paper's tables.
    """
    figures = _figures(methods or ())
    first = runs[0]
    others = runs[1:] if protocol != "valid_only" else []
    columns = ["dataset", "metric", "answers", *(run.name for run in runs)]
    columns += [f"Δ {other.name} [95 % CI]" for other in others]
    columns += [f"{method} (paper)" for method in methods or ()]
    table = PlainTable("", columns)
    units = set()
    for dataset in dict.fromkeys(name for run in runs for name in run.datasets):
        entries = [run.datasets.get(dataset) for run in runs]
        known = next(e for e in entries if e is not None)
        table.names[dataset] = display_name(dataset, known["layout"])
        scores = [run.scores(dataset, protocol) for run in runs] if others else []
        for metric in _metrics(entries, figures, known["layout"], protocol, all_metrics):
            values = [None if e is None else e.get(protocol, {}).get(metric) for e in entries]
            scale = read_scale(known, metric)
            units.add(scale.unit)
            cells = [dataset, scale.label(metric)]
            cells.append("/".join(dict.fromkeys(str(e["counts"]["scored"]) if e else "–" for e in entries)))
            cells += [scale.text(v) for v in values]
            for i in range(1, len(others) + 1):
                if metric != known["headline"]:
                    cells.append("")
                    continue
                if scale.unit != PERCENT:  # the scores of samples are fractions, but the metric is not
                    cells.append(_plain_difference(scale, values[0], values[i], table))
                    continue
                cells.append(_difference(scores, i, [values[0], values[i]], table, seed, resamples))
            for method in methods or ():
                cells.append(_printed(figures, method, known, metric, runs, entries, table))
            table.add(cells)
    table.title = f"{first.split}: {units_said(units)}, {protocol}"
    if others:
        table.notes.append(
            f"Δ: difference to {first.name} in points, over the samples that have a score in both runs,"
            f" with the paired bootstrap interval ({resamples:,} resamples, seed {seed}); * means that the"
            f" interval does not contain 0."
        )
    elif len(runs) > 1:
        table.notes.append("There are no intervals, because they need scores in which every sample counts.")
    if methods:
        table.notes.append(
            f"(paper): {published_source()}; † these figures cannot be compared; see the notes."
        )
    return table


def _figures(methods: Sequence[str]) -> dict[tuple[str, str, str], PublishedFigure]:
    """Return the figures by method, dataset and metric, each from the first table that contains it."""
    known = published_figures()
    rows = list(dict.fromkeys(figure.row for figure in known))
    if unknown := [method for method in methods if method not in rows]:
        near = did_you_mean(unknown[0], rows)
        raise ValueError(f"--published {unknown[0]}{near}: the paper's tables have: {', '.join(rows)}")
    found: dict[tuple[str, str, str], PublishedFigure] = {}
    for figure in known:
        if figure.row in methods:
            found.setdefault((figure.row, figure.dataset, figure.metric), figure)
    return found


def _metrics(
    entries: Sequence[dict[str, Any] | None],
    figures: dict[tuple[str, str, str], PublishedFigure],
    layout: str,
    protocol: str,
    every: bool,
) -> list[str]:
    """Return the metrics to show, the primary metric first."""
    present = [e for e in entries if e is not None]
    names = dict.fromkeys(
        k for e in present for k, v in e.get(protocol, {}).items() if not isinstance(v, list)
    )
    printed = {metric for _, key, metric in figures if key == layout}
    headlines = {e["headline"] for e in present}
    kept = [name for name in names if every or name in headlines or name in printed]
    return sorted(kept, key=lambda name: name not in headlines)


def _difference(
    scores: Sequence[dict[str, float]],
    index: int,
    headlines: Sequence[float | None],
    table: PlainTable,
    seed: int,
    resamples: int,
) -> str:
    """Return the difference between a run and the first run, with its interval, as text."""
    a, b = scores[0], scores[index]
    found = paired_difference(a, b, resamples=resamples, seed=seed)
    if found is None:
        return table.mark("the two runs have no scored sample in common") if a or b else "–"
    marks = ""
    if found.samples < max(len(a), len(b)):
        marks += table.mark(f"{found.samples} of {max(len(a), len(b))} samples are common to both runs")
    means = [sum(s.values()) / len(s) for s in (a, b)]
    if any(h is None or abs(h - m) > 1e-4 for h, m in zip(headlines, means, strict=True)):
        marks += table.mark("the metric is not a mean over samples; Δ is that of the mean sample score")
    star = "*" if found.differs else ""
    return f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}]{star}{marks}"


def _plain_difference(scale: Scale, a: float | None, b: float | None, table: PlainTable) -> str:
    """Return the difference of two values of a metric that is not a fraction, as text."""
    if a is None or b is None:
        return "–"
    return scale.signed(b - a) + table.mark(
        "this metric has no range of 0 to 1, so this is the difference of its values"
    )


def _printed(
    figures: dict[tuple[str, str, str], PublishedFigure],
    method: str,
    entry: dict[str, Any],
    metric: str,
    runs: Sequence[FinishedRun],
    entries: Sequence[dict[str, Any] | None],
    table: PlainTable,
) -> str:
    """Return a figure of the paper as text, with a mark if it cannot be compared with the runs."""
    figure = figures.get((method, entry["layout"], metric))
    if figure is None:
        return "–"
    reasons = [figure.not_comparable] if figure.not_comparable else []
    if any(run.synthetic for run in runs):
        reasons.append("the data of the runs are synthetic (Mini AV-UIE), and those of the paper are not")
    elif runs[0].split != "test":
        reasons.append("the runs' scores are of a validation split")
    elif (count := known_test_samples(entry["layout"])) is not None:
        scored = {e["counts"]["scored"] for e in entries if e is not None}
        if scored != {count}:
            reasons.append(
                f"the paper's test split has {count:,} samples, and the runs answered {min(scored):,}"
            )
    return f"{figure.percent:.2f}" + ("†" + "".join(table.mark(r) for r in reasons) if reasons else "")
