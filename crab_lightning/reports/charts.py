"""Draws the charts of the HTML page as SVG and HTML: curves, bars, confusion matrices, boxes on a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from crab_lightning.dashboards.figures.matrices import confusion_of
from crab_lightning.templates import draw

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito, for colour-blind readers

TEMPLATE = "reports/charts.html.j2"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 170, 46, 20


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Draw up to three curves into one chart.

    Args:
        series: Steps and values of each curve, by name. Values that are not finite are left out, and the name
            states their number.
    """
    kept = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    keys = []
    for (name, points), colour in zip(series.items(), (BLUE, ORANGE, GREEN), strict=False):
        lost = len(points) - len(kept[name])
        keys.append((colour if len(series) > 1 else "", f"{name}{f' ({lost} not finite)' if lost else ''}"))
    xs, ys = ([point[i] for points in kept.values() for point in points] for i in (0, 1))
    if not xs:
        return draw(TEMPLATE, "figure", keys)
    (x0, x1), (y0, y1) = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - 8),
            8 + (y1 - y) / (y1 - y0) * (_HEIGHT - _BOTTOM - 14),
        )

    levels = [(place(x0, value)[1], _tick(value)) for value in (y0, (y0 + y1) / 2, y1)]
    ends = [(place(x, y0)[0], anchor, f"{x:,.0f}") for x, anchor in ((x0, "start"), (x1, "end"))]
    lines = [
        (
            colour,
            [place(x, y) for x, y in points],
            [(*place(x, y), f"{name}, step {x:,.0f}: {y:.4g}") for x, y in points if len(points) <= 40],
        )
        for (name, points), colour in zip(kept.items(), (BLUE, ORANGE, GREEN), strict=False)
    ]
    return draw(TEMPLATE, "figure", keys, _WIDTH, _HEIGHT, _LEFT, levels, ends, lines)


Curves = Mapping[str, Sequence[tuple[float, float]]]

_RUN = (
    ("train/loss", "val/loss"),
    ("val/mean/headline",),
    ("train/lr",),
    ("train/grad_norm",),
    ("train/tokens_per_s",),
    ("train/padding_share",),
)
"""Charts of the whole run, each with the tags of its curves."""


def run_curves(curves: Curves) -> Markup:
    """Draw the curves of the whole run, and other curves in a closed section. Test scores have no curve."""
    known = {tag: points for tag, points in curves.items() if points and not tag.startswith("test/")}
    first = [{tag: known[tag] for tag in tags if tag in known} for tags in _RUN]
    shown = {tag for chart in first for tag in chart}
    rest = [line_chart({tag: points}) for tag, points in known.items() if tag not in shown]
    return draw(TEMPLATE, "run_curves", [line_chart(chart) for chart in first if chart], rest)


def dataset_curves(curves: Curves, task: str, key: str, headline: str | None) -> Markup:
    """Draw the losses and the primary metric of one dataset, if there are any."""
    losses = (f"train/loss/{key}", f"val/{task}/{key}/loss")
    charts = [
        {tag: curves[tag] for tag in tags if curves.get(tag)}
        for tags in (losses, (f"val/{task}/{key}/{headline}",))
    ]
    return draw(TEMPLATE, "dataset_curves", key, [line_chart(chart) for chart in charts if chart])


def _tick(value: float) -> str:
    """Return a number short enough for an axis."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if abs(value) >= 1e3 else f"{value:.3g}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def bars(values: Mapping[str, float | None]) -> Markup:
    """Draw fractions as horizontal bars. A group without samples shows a dash."""
    rows = [
        (
            name,
            0 if value is None else 100 * min(max(value, 0.0), 1.0),
            "–" if value is None else f"{100 * value:.2f}",
        )
        for name, value in values.items()
    ]
    return draw(TEMPLATE, "bars", rows)


def confusion(records: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw a confusion matrix of prediction records.

    Returns:
        A table, or ``None`` if the true answers are not names or choices, or are more than 60.
    """
    found = confusion_of(records, fewest=1)
    if found is None:
        return None
    return draw(TEMPLATE, "confusion", found.names, found.columns, found.counts.tolist())


def reliability(calibration: Mapping[str, Any]) -> Markup:
    """Draw a reliability diagram: for each range of confidence, the fraction of right answers.

    Args:
        calibration: The entry ``calibration`` of a dataset in ``metrics.json``.
    """
    answers, right, confidence = (calibration[f"bin_{k}"] for k in ("answers", "right", "confidence"))
    bins, side, left, top, low = len(answers), 200, 40, 8, 36
    step = side / bins
    drawn = []
    for place in (place for place in range(bins) if answers[place]):
        share, sure = right[place] / answers[place], confidence[place] / answers[place]
        said = f"{answers[place]} answers with a mean confidence of {100 * sure:.1f} %: "
        said += f"{100 * share:.1f} % right"
        opacity = 0.35 + 0.65 * answers[place] / max(answers)
        drawn.append((left + place * step + 0.5, step - 1, share * side + 1, opacity, said))
    about = (
        f"{sum(answers)} answers chosen by likelihood: right {100 * calibration['accuracy']:.1f} %, mean"
        f" confidence {100 * calibration['confidence']:.1f} %, expected calibration error"
        f" {100 * calibration['error']:.1f} points. A bar below the diagonal means that the model is too"
        " confident. Paler bars contain fewer answers."
    )
    return draw(TEMPLATE, "reliability", side, left, top, low, drawn, BLUE, about)


def spans_svg(truth: Any, parsed: Any, duration_s: float) -> Markup:
    """Draw true and answered events as bars over the time of a sound, if the answers are events."""
    rows = []
    for value, colour, name in ((truth, GREEN, "true"), (parsed, ORANGE, "answered")):
        for kind, events in _events(value):
            marks = [
                (
                    1000 * start / duration_s,
                    max(1000 * (end - start) / duration_s, 3),
                    f"{name}: {event}, {start:g} to {end:g} s",
                )
                for event, start, end in events
            ]
            rows.append((" ".join((name, kind)).strip(), colour, marks))
    return draw(TEMPLATE, "spans", rows)


def _events(value: Any) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Return the events of an answer, by modality if it has modalities."""
    groups = value.items() if isinstance(value, dict) else [("", value)]
    found = []
    for kind, events in groups:
        if not isinstance(events, list) or not events:
            continue
        spans = [
            (str(e["event"]), float(e["start_s"]), float(e["end_s"]))
            if isinstance(e, dict) and {"event", "start_s", "end_s"} <= e.keys()
            else (str(e[0]), float(e[1]), float(e[2]))
            if isinstance(e, list) and len(e) == 3 and isinstance(e[0], str)
            else None
            for e in events
        ]
        if all(span is not None for span in spans):
            found.append((str(kind), [span for span in spans if span is not None]))
    return found


def boxes_svg(truth: Any, parsed: Any, size_px: int) -> Markup:
    """Draw the true and the answered box and points as a layer over a square picture, if there are any."""
    shapes = [
        (colour, dash, *_coordinates(value))
        for value, colour, dash in ((truth, GREEN, ""), (parsed, ORANGE, "6 4"))
    ]
    return draw(TEMPLATE, "boxes", size_px, [shape for shape in shapes if shape[2] or shape[3]])


def _coordinates(value: Any) -> tuple[list[float] | None, list[list[float]]]:
    """Return the box and points of an answer. Values that are not numbers are left out."""
    if isinstance(value, dict):
        points = value.get("points_xy_px")
        found = [_numbers(point, 2) for point in points] if isinstance(points, list) else []
        return _numbers(value.get("box_xyxy_px"), 4), [point for point in found if point is not None]
    return _numbers(value, 4), []


def _numbers(value: Any, count: int) -> list[float] | None:
    known = isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value)
    return list(value) if known else None
