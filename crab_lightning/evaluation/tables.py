"""The table of results that a pass over a split ends with."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crab_lightning.data.manifests.layout import LAYOUTS, card
from crab_lightning.evaluation.scores import mean_headline
from crab_lightning.metrics.scale import Scale, read_scale

DISPLAY_NAMES = {name: str(card(name)["display"]) for name in LAYOUTS}
"""Layout -> name of the benchmark as papers print it, from the dataset's card."""


def results_table(
    results: dict[str, dict[str, Any]],
    split: str,
    answers_per_s: float | None = None,
    *,
    headlines: bool = False,
) -> Table:
    """Lay out every dataset's metrics beside its majority baseline.

    Args:
        results: Dataset -> its entry in ``metrics.json``.
        split: Named in the title.
        answers_per_s: Throughput for the caption.
        headlines: Show only each dataset's headline metric.

    Returns:
        A rich table; shares are percentages, the headline metric of a dataset stands first.
    """
    table = Table(
        title=f"{split}: shares in percent, strict (unreadable and missing answers are empty predictions)"
    )
    for name in ("dataset", "task", "metric"):
        table.add_column(name, no_wrap=name != "task")
    weighed = any(r.get("likelihood") for r in results.values())
    protocols = ["strict", "valid_only", "majority", *(["likelihood"] if weighed else [])]
    extra = ("likelihood", "calib. error") if weighed else ()
    shown = ("strict", "valid only", "majority", *extra)
    for name in (*shown, "answers", "unparsed", "cut off", "missing", "loss"):
        table.add_column(name, justify="right")
    for dataset, result in results.items():
        names = [k for k, v in result["strict"].items() if not isinstance(v, list)]
        names.sort(key=lambda name: name != result["headline"])
        if headlines:
            names = names[:1]
        for row, metric in enumerate(names or [None]):
            first = row == 0
            scale = read_scale(result, metric)
            cells = [scale.text(result.get(p, {}).get(metric)) for p in protocols]
            if weighed:
                calibration = result.get("calibration") if first else None
                cells.append(_percent(calibration["error"]) if calibration else "")
            title = DISPLAY_NAMES.get(result["layout"], dataset)
            counts = result["counts"]
            table.add_row(
                (title if title.lower() == dataset else f"{title} [dim]{dataset}[/dim]") if first else "",
                result["task"] if first else "",
                _metric(metric, result["headline"], scale),
                *cells,
                *(_counts(counts, result) if first else ("",) * 5),
                end_section=not headlines and row >= len(names) - 1,
            )
    _add_mean(table, results, len(extra))
    if answers_per_s:
        table.caption = f"{answers_per_s:.2f} answers per second"
    return table


def print_results(
    results: dict[str, dict[str, Any]],
    split: str,
    answers_per_s: float | None = None,
    *,
    headlines: bool = False,
) -> None:
    """Print :func:`results_table`, at full width when the output is not a terminal, and the notes."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=190 if any(r.get("likelihood") for r in results.values()) else 160)
    console.print(results_table(results, split, answers_per_s, headlines=headlines))
    of_note: dict[str, list[str]] = {}
    for dataset, result in results.items():
        if result.get("note"):
            of_note.setdefault(result["note"], []).append(dataset)
    for note, datasets in of_note.items():
        console.print(f"{', '.join(datasets)}: {note}", highlight=False, markup=False, soft_wrap=True)


def _add_mean(table: Table, results: dict[str, dict[str, Any]], empty: int = 0) -> None:
    """Add the macro mean of the headlines; with one dataset it would repeat it."""
    scored = [
        r
        for r in results.values()
        if read_scale(r, r["headline"]).share(r["strict"].get(r["headline"])) is not None
    ]
    if len(scored) < 2:
        return
    means = [_percent(mean_headline(results, p)) for p in ("strict", "valid_only", "majority")]
    answers = sum(r["counts"]["scored"] for r in results.values())
    unparsed = sum(r["counts"]["unparsed"] for r in results.values())
    rate = f"{unparsed} ({100 * unparsed / answers:.0f}%)" if unparsed else "0"
    table.add_section()
    table.add_row(
        "[bold]mean[/bold]",
        f"{len(scored)} datasets",
        "headline, 0 to 100",
        *means,
        *[""] * empty,
        f"{answers:,}",
        rate,
    )


def _metric(name: str | None, headline: str | None, scale: Scale) -> str:
    if name is None:
        return "[dim]none[/dim]"
    label = escape(scale.label(name))
    return f"[bold]{label}[/bold]" if name == headline else label


def _counts(counts: dict[str, int], result: dict[str, Any]) -> tuple[str, ...]:
    if not counts["scored"]:
        return "", "", "", "", _number(result["loss"])
    rate = f"{counts['unparsed']} ({100 * counts['unparsed'] / counts['scored']:.0f}%)"
    return (
        f"{counts['scored']:,}",
        rate if counts["unparsed"] else "0",
        str(counts["truncated"]),
        str(counts["missing"]),
        _number(result["loss"]),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
