"""Charts of the HTML page as inline SVG and HTML: curves, bars, confusion matrices, boxes on a picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito: told apart by colour-blind readers

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 170, 46, 20


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw a few curves into one pair of axes.

    Args:
        series: Name -> steps and values; values that are not finite are left out and their number is said.
    """
    kept = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    keys = []
    for (name, points), colour in zip(series.items(), (BLUE, ORANGE, GREEN), strict=False):
        lost = len(points) - len(kept[name])
        key = f'<span style="color:{colour}">●</span> ' if len(series) > 1 else ""
        keys.append(f"{key}{escape(name)}{f' ({lost} not finite)' if lost else ''}")
    head = f"<figcaption>{' &nbsp; '.join(keys)}</figcaption>"
    xs, ys = ([point[i] for points in kept.values() for point in points] for i in (0, 1))
    if not xs:
        return f"<figure>{head}<p>no finite value</p></figure>"
    (x0, x1), (y0, y1) = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - 8),
            8 + (y1 - y) / (y1 - y0) * (_HEIGHT - _BOTTOM - 14),
        )

    parts = []
    for value in (y0, (y0 + y1) / 2, y1):
        height = place(x0, value)[1]
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 5}" y="{height + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
    for value, anchor in ((x0, "start"), (x1, "end")):
        parts.append(
            f'<text x="{place(value, y0)[0]:.1f}" y="{_HEIGHT - 4}"'
            f' text-anchor="{anchor}">{value:,.0f}</text>'
        )
    for (name, points), colour in zip(kept.items(), (BLUE, ORANGE, GREEN), strict=False):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, y) for x, y in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts += [
            f'<circle cx="{place(x, y)[0]:.1f}" cy="{place(x, y)[1]:.1f}" r="2.6" fill="{colour}">'
            f"<title>{escape(name)}, step {x:,.0f}: {y:.4g}</title></circle>"
            for x, y in (points if len(points) <= 40 else [])
        ]
    return f'<figure>{head}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg></figure>'


def _tick(value: float) -> str:
    """Return a number short enough for an axis."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if abs(value) >= 1e3 else f"{value:.3g}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def bars(values: Mapping[str, float | None]) -> str:
    """Draw shares as horizontal bars; a group without a sample shows a dash."""
    rows = []
    for name, value in values.items():
        width = 0 if value is None else 100 * min(max(value, 0.0), 1.0)
        said = "–" if value is None else f"{100 * value:.2f}"
        rows.append(
            f'<div class="bar"><span>{escape(name)}</span><i><b style="width:{width:.1f}%"></b></i>'
            f"<em>{said}</em></div>"
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def confusion(records: Sequence[Mapping[str, Any]], most: int = 60) -> str | None:
    """Draw a confusion matrix of scored answers.

    Args:
        records: Prediction records.
        most: Largest number of classes drawn.

    Returns:
        A table; ``None`` where the true answers are not a few plain names or choices.
    """
    pairs = [(r.get("truth"), r.get("parsed")) for r in records]
    truths = [truth for truth, _ in pairs]
    if not truths or not (all(isinstance(t, str) for t in truths) or {*map(repr, truths)} <= {"1", "2"}):
        return None
    names = sorted({str(truth) for truth in truths})
    if not 2 <= len(names) <= most:
        return None
    other, unread = "another answer", "unreadable"
    said = [unread if p is None else str(p) if str(p) in names else other for _, p in pairs]
    counts = Counter(zip(map(str, truths), said, strict=True))
    columns = [*names, *(extra for extra in (other, unread) if extra in said)]
    totals = Counter(map(str, truths))
    head = "".join(f'<th class="up"><span>{escape(name)}</span></th>' for name in columns)
    body = []
    for truth in names:
        cells = []
        for column in columns:
            count = counts[truth, column]
            share = count / totals[truth]
            colour = "0,158,115" if column == truth else "213,94,0"
            cells.append(
                f'<td style="background:rgba({colour},{0.85 * share:.2f})" title="true {escape(truth)},'
                f' said {escape(column)}: {count} of {totals[truth]}">{count or ""}</td>'
            )
        body.append(f"<tr><th>{escape(truth)}</th>{''.join(cells)}<td class='sum'>{totals[truth]}</td></tr>")
    return (
        '<div class="scroll"><table class="confusion"><thead><tr><th>true \\ said</th>'
        f"{head}<th>all</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def reliability(calibration: Mapping[str, Any]) -> str:
    """Draw how often answers of a confidence are right: bars, the diagonal, and how many answers fall where.

    Args:
        calibration: A dataset's ``calibration`` in ``metrics.json``.
    """
    answers, right, confidence = (calibration[f"bin_{k}"] for k in ("answers", "right", "confidence"))
    bins, side, left, top, low = len(answers), 200, 40, 8, 36
    step = side / bins
    parts = [f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" class="grid"/>']
    for value in (0, 0.5, 1):
        x, y = left + value * side, top + (1 - value) * side
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.0f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{top + side + 15}" text-anchor="middle">{100 * value:.0f}</text>')
    for place in range(bins):
        if not answers[place]:
            continue
        share, sure = right[place] / answers[place], confidence[place] / answers[place]
        opacity = 0.35 + 0.65 * answers[place] / max(answers)
        parts.append(
            f'<rect x="{left + place * step + 0.5:.1f}" y="{top + (1 - share) * side - 1:.1f}" fill="{BLUE}"'
            f' width="{step - 1:.1f}" height="{share * side + 1:.1f}" opacity="{opacity:.2f}">'
            f"<title>{answers[place]} answers with a mean confidence of {100 * sure:.1f} %:"
            f" {100 * share:.1f} % right</title></rect>"
        )
    parts.append(
        f'<line x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}" class="diagonal"/>'
        f'<text x="{left + side / 2}" y="{top + side + 31}" text-anchor="middle">confidence, %</text>'
        f'<text transform="translate(11 {top + side / 2}) rotate(-90)" text-anchor="middle">right, %</text>'
    )
    about = (
        f"{sum(answers)} answers chosen by likelihood: right {100 * calibration['accuracy']:.1f} %, mean"
        f" confidence {100 * calibration['confidence']:.1f} %, expected calibration error"
        f" {100 * calibration['error']:.1f} points. Below the diagonal the model is too sure. Paler bars hold"
        " fewer answers."
    )
    return (
        f'<figure class="reliability"><svg viewBox="0 0 {left + side + 12} {top + side + low}" role="img">'
        f"{''.join(parts)}</svg><figcaption>{about}</figcaption></figure>"
    )


def spans_svg(truth: Any, parsed: Any, duration_s: float) -> str:
    """Draw true and answered events as bars over the time of a sound; empty where answers are no events."""
    rows = []
    for value, colour, name in ((truth, GREEN, "true"), (parsed, ORANGE, "answered")):
        for kind, events in _events(value):
            marks = "".join(
                f'<rect x="{1000 * start / duration_s:.0f}" y="2" height="10" rx="3"'
                f' width="{max(1000 * (end - start) / duration_s, 3):.0f}" fill="{colour}">'
                f"<title>{name}: {escape(event)}, {start:g} to {end:g} s</title></rect>"
                for event, start, end in events
            )
            about = escape(" ".join((name, kind)).strip())
            drawn = f'<svg viewBox="0 0 1000 14" preserveAspectRatio="none">{marks}</svg>'
            rows.append(f"<span>{about}</span>{drawn}")
    return f'<div class="spans">{"".join(rows)}</div>' if rows else ""


def _events(value: Any) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Return events by modality (or under no name): records with a span, or ``[name, start, end]``."""
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


def boxes_svg(truth: Any, parsed: Any, size_px: int) -> str:
    """Draw the true and the answered box and points as a layer above a square picture, if any."""
    parts = []
    for value, colour, dash in ((truth, GREEN, ""), (parsed, ORANGE, "6 4")):
        box, points = _coordinates(value)
        if box is not None:
            x1, y1, x2, y2 = box
            parts.append(
                f'<rect x="{x1}" y="{y1}" width="{max(x2 - x1, 0)}" height="{max(y2 - y1, 0)}" fill="none"'
                f' stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
            )
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in points]
    return f'<svg class="layer" viewBox="0 0 {size_px} {size_px}">{"".join(parts)}</svg>' if parts else ""


def _coordinates(value: Any) -> tuple[list[float] | None, list[list[float]]]:
    """Return box and points as numbers; what is no number is not drawn, since a file may hold anything."""
    if isinstance(value, dict):
        points = value.get("points_xy_px")
        found = [_numbers(point, 2) for point in points] if isinstance(points, list) else []
        return _numbers(value.get("box_xyxy_px"), 4), [point for point in found if point is not None]
    return _numbers(value, 4), []


def _numbers(value: Any, count: int) -> list[float] | None:
    known = isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value)
    return list(value) if known else None
