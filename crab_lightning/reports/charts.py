"""Charts of the HTML page as inline SVG and HTML: curves, bars, confusion matrices, boxes on a picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito: told apart by colour-blind readers

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 170, 46, 20


def line_chart(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Draw one curve with its axes.

    Args:
        title: Printed above.
        points: Step and value; values that are not finite are left out and their number is said.
    """
    kept = [(x, y) for x, y in points if math.isfinite(y)]
    lost = len(points) - len(kept)
    head = f"<figcaption>{escape(title)}{f' ({lost} not finite)' if lost else ''}</figcaption>"
    if not kept:
        return f"<figure>{head}<p>no finite value</p></figure>"
    xs, ys = [x for x, _ in kept], [y for _, y in kept]
    (x0, x1), (y0, y1) = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - 8),
            8 + (y1 - y) / (y1 - y0) * (_HEIGHT - _BOTTOM - 14),
        )

    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, y) for x, y in kept))
    parts = []
    for value in (y0, (y0 + y1) / 2, y1):
        height = place(x0, value)[1]
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 5}" y="{height + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value, anchor in ((x0, "start"), (x1, "end")):
        parts.append(
            f'<text x="{place(value, y0)[0]:.1f}" y="{_HEIGHT - 4}"'
            f' text-anchor="{anchor}">{value:,.0f}</text>'
        )
    dots = [place(x, y) for x, y in kept] if len(kept) <= 40 else []
    parts.append(f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="1.8"/>')
    parts += [
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{BLUE}">'
        f"<title>step {x:,.0f}: {y:.4g}</title></circle>"
        for (a, b), (x, y) in zip(dots, kept, strict=False)
    ]
    return f'<figure>{head}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg></figure>'


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
    if isinstance(value, dict):
        return value.get("box_xyxy_px"), value.get("points_xy_px") or []
    if isinstance(value, list) and len(value) == 4 and all(isinstance(v, (int, float)) for v in value):
        return value, []
    return None, []
