"""Compares runs in a table, with paired intervals and the figures of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crab_lightning.data.manifests.layout import display_name
from crab_lightning.metrics.scale import Scale, read_scale, units_said
from crab_lightning.reports.bootstrap import Difference, bootstrap_mean
from crab_lightning.reports.published import (
    PublishedFigure,
    known_test_samples,
    published_figures,
    published_source,
)
from crab_lightning.reports.runs import FinishedRun, JoinedRuns
from crab_lightning.reports.tables import INTERVAL, IntervalCell, PlainTable
from crab_lightning.spelling import did_you_mean
from crab_lightning.studies.statistics import RatioStatistic, Statistic, drawn_counts, headline_of

_FEWEST = 6
"""Fewest samples for a difference that is not chance: the exact sign test of five gives p = 0.06 at best."""
_CHUNK = 4_000_000
_MOST_COMPUTED = 1000
"""Most resamples for a metric that is computed again for each of them, which may take a second."""


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
    columns += [f"Δ {other.name}{INTERVAL}" for other in others]
    columns += [f"{method} (paper)" for method in methods or ()]
    table = PlainTable("", columns)
    units = set()
    for dataset in dict.fromkeys(name for run in runs for name in run.datasets):
        entries = [run.datasets.get(dataset) for run in runs]
        known = next(e for e in entries if e is not None)
        table.names[dataset] = display_name(dataset, known["layout"])
        statistics = [_statistic(run, dataset, protocol) for run in runs] if others else []
        for metric in _metrics(entries, figures, known["layout"], protocol, all_metrics):
            values = [None if e is None else e.get(protocol, {}).get(metric) for e in entries]
            scale = read_scale(known, metric)
            units.add(scale.unit)
            cells = [dataset, scale.label(metric)]
            answers = "/".join(dict.fromkeys(str(e["counts"]["scored"]) if e else "–" for e in entries))
            if first.split == "test" and any(e is not None and e.get("splits") == ["val"] for e in entries):
                answers += table.mark("there is no test file, so these are validation rows")
            cells.append(answers)
            cells += [scale.text(v) for v in values]
            for i in range(1, len(others) + 1):
                if metric != known["headline"]:
                    cells.append("")
                    continue
                ends = (values[0], values[i]), (statistics[0], statistics[i])
                cells.append(_difference(scale, *ends, table, seed, resamples))
            for method in methods or ():
                cells.append(_printed(figures, method, known, metric, runs, entries, table))
            table.add(cells)
    table.title = f"{first.split}: {units_said(units)}, {protocol}"
    if others:
        table.notes.append(
            f"Δ: difference to {first.name}, over the samples that have a score in both runs, with the paired"
            f" bootstrap interval ({resamples:,} resamples, at most {_MOST_COMPUTED:,} for metrics that are"
            f" computed from all answers together, such as mAP and CIDEr; seed {seed}); * means"
            " that the interval does not contain 0."
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


def _statistic(run: FinishedRun, dataset: str, protocol: str) -> tuple[Statistic | None, str]:
    """Return the primary metric of a run on any resample of its answers, or the reason why there is none."""
    part = run.home.get(dataset, run) if isinstance(run, JoinedRuns) else run
    if protocol == "strict":
        found = headline_of(part, dataset)
        return (None, "") if found is None else (found.statistic, found.note)
    scores = part.scores(dataset, protocol)
    return RatioStatistic(list(scores), list(scores.values())) if scores else None, ""


def _difference(
    scale: Scale,
    values: tuple[float | None, float | None],
    statistics: tuple[tuple[Statistic | None, str], ...],
    table: PlainTable,
    seed: int,
    resamples: int,
) -> str:
    """Return the difference between a run and the first run, with its interval, as text."""
    (a, why_a), (b, why_b) = statistics
    if values[0] is None or values[1] is None:
        return "–"
    if a is None or b is None:
        reason = why_a or why_b or "the answers have no scores"
        return scale.signed(values[1] - values[0]) + table.mark(f"there is no interval, because {reason}")
    known = set(b.ids)
    common = [name for name in sorted(a.ids) if name in known]
    if not common:
        return table.mark("the two runs have no scored sample in common")
    marks = ""
    if len(common) < (most := max(len(a.ids), len(b.ids))):
        marks += table.mark(f"{len(common)} of {most} samples are common to both runs")
    found = _interval(a.of(common), b.of(common), seed, resamples)
    if not math.isfinite(found.low):
        return table.mark("the metric has no value on the samples that both runs answered")
    if found.samples < _FEWEST:
        marks += table.mark(f"with fewer than {_FEWEST} samples, every difference may be chance")
    star = "*" if found.differs and found.samples >= _FEWEST else ""
    value, low, high = (scale.signed(v) for v in (found.mean, found.low, found.high))
    return IntervalCell(value, low, high, star + marks)


def _interval(a: Statistic, b: Statistic, seed: int, resamples: int) -> Difference:
    """Return the difference of two metrics on the same samples, with the interval of the paired bootstrap.

    The interval is NaN if the metrics have no value on these samples.
    """
    if isinstance(a, RatioStatistic) and isinstance(b, RatioStatistic) and a.is_mean and b.is_mean:
        return bootstrap_mean(b.parts - a.parts, resamples=resamples, seed=seed)
    rng = np.random.default_rng(seed)
    if not (isinstance(a, RatioStatistic) and isinstance(b, RatioStatistic)):
        resamples = min(resamples, _MOST_COMPUTED)
    step = max(1, _CHUNK // len(a.ids))
    drawn = np.concatenate(
        [
            b.at(counts) - a.at(counts)
            for start in range(0, resamples, step)
            for counts in [drawn_counts(len(a.ids), min(step, resamples - start), rng)]
        ]
    )
    finite = drawn[np.isfinite(drawn)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite.size else (math.nan, math.nan)
    return Difference(b.value() - a.value(), float(low), float(high), len(a.ids))


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
