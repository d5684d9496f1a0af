"""The tables of results that are printed after an evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crab_lightning.data.manifests.layout import display_name
from crab_lightning.evaluation.metric_values import headline_share, mean_headline
from crab_lightning.metrics.scale import Scale, read_scale, units_said
from crab_lightning.program import print_table


def summary_table(results: dict[str, dict[str, Any]], split: str) -> Table:
    """Return a table of at most 80 columns with one row for each dataset and its primary metric.

    Args:
        results: Dataset -> entry in ``metrics.json``.
        split: Split, for the title.

    Returns:
        A rich table; fractions are in percent.
    """
    weighed = any(r.get("likelihood") for r in results.values())
    said = units_said(read_scale(result, result["headline"]).unit for result in results.values())
    title = f"{split}: the primary metric of each dataset, {said}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("dataset", no_wrap=True)
    table.add_column("metric", overflow="fold")  # in a narrow terminal this column takes several lines
    protocols = ("strict", "valid_only", "majority", *(("likelihood",) if weighed else ()))
    for name in (*protocols, "answers", "unreadable"):
        heading = (
            name.replace("valid_only", "valid\nonly")
            .replace("likelihood", "likeli-\nhood")
            .replace("unreadable", "unread-\nable")
        )
        table.add_column(heading, justify="right", no_wrap=True)
    for dataset, result in results.items():
        metric = result["headline"]
        scale = read_scale(result, metric)
        counts = result["counts"]
        table.add_row(
            dataset,
            escape(scale.label(metric)) if metric else "[dim]none[/dim]",
            *(scale.text(result.get(p, {}).get(metric)) for p in protocols),
            f"{counts['scored']:,}",
            f"{100 * counts['unparsed'] / counts['scored']:.0f}%" if counts["scored"] else "",
        )
    # All means are over the same datasets, so that they can be compared.
    same = {
        name: r for name, r in results.items() if all(headline_share(r, p) is not None for p in protocols)
    }
    if len(same) > 1:
        table.add_section()
        table.add_row(
            "[bold]mean[/bold]",
            f"of {len(same)} of {len(results)}",
            *(Scale().text(mean_headline(same, p)) for p in protocols),
            f"{sum(r['counts']['scored'] for r in same.values()):,}",
        )
    return table


def results_table(results: dict[str, dict[str, Any]], split: str) -> Table:
    """Return a table with all metrics of all datasets and the majority baseline, about 160 columns wide.

    Args:
        results: Dataset -> entry in ``metrics.json``.
        split: Split, for the title.

    Returns:
        A rich table; fractions are in percent, and the primary metric of a dataset comes first.
    """
    said = units_said(read_scale(r, name).unit for r in results.values() for name in r["strict"])
    table = Table(title=f"{split}: {said}, strict (unreadable and missing answers are empty predictions)")
    for name in ("dataset", "task", "metric"):
        table.add_column(name, no_wrap=name != "task")
    weighed = any(r.get("likelihood") for r in results.values())
    protocols = ["strict", "valid_only", "majority", *(["likelihood"] if weighed else [])]
    extra = ("likelihood", "calib. error") if weighed else ()
    shown = ("strict", "valid only", "majority", *extra)
    for name in (*shown, "answers", "unparsed", "cut off", "missing", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    for dataset, result in results.items():
        names = [k for k, v in result["strict"].items() if not isinstance(v, list)]
        names.sort(key=lambda name: name != result["headline"])
        for row, metric in enumerate(names or [None]):
            first = row == 0
            scale = read_scale(result, metric)
            cells = [scale.text(result.get(p, {}).get(metric)) for p in protocols]
            if weighed:
                calibration = result.get("calibration") if first else None
                cells.append(Scale().text(calibration["error"]) if calibration else "")
            title = display_name(dataset, result["layout"])
            counts = result["counts"]
            table.add_row(
                (title if title.lower() == dataset.lower() else f"{title} [dim]{dataset}[/dim]")
                if first
                else "",
                result["task"] if first else "",
                _metric(metric, result["headline"], scale),
                *cells,
                *(_counts(counts, result) if first else ("",) * 5),
                end_section=row >= len(names) - 1,
            )
    return table


def print_results(
    results: dict[str, dict[str, Any]],
    split: str,
    answers_per_s: float | None = None,
    *,
    everything: bool = False,
    more: str = "",
) -> None:
    """Print the table of results and remarks on it.

    Args:
        results: Dataset -> entry in ``metrics.json``.
        split: Split, for the title.
        answers_per_s: Answers per second, for the caption.
        everything: Print all metrics of each dataset, about 160 columns wide.
        more: Sentence that says where the other metrics are, printed under the short table.
    """
    console = Console()
    table = (results_table if everything else summary_table)(results, split)
    if answers_per_s:
        table.caption = f"{answers_per_s:.2f} answers per second"
    print_table(table, console)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if any(r["counts"]["scored"] for r in results.values()):
        say("strict: an answer that cannot be read, or is missing, is scored as an empty prediction.")
        say(
            "valid only: such answers are left out. majority: always the most frequent training"
            " answer, or the median box."
        )
    earned = {name: r["unparsed_score"] for name, r in results.items() if r.get("unparsed_score")}
    if earned:
        shares = ", ".join(f"{name} {100 * value:.1f}" for name, value in earned.items())
        say(f"An unreadable answer, scored as an empty prediction, gets on average (percent): {shares}.")
    of_note: dict[str, list[str]] = {}
    for dataset, result in results.items():
        if result.get("note"):
            of_note.setdefault(result["note"], []).append(dataset)
    for note, datasets in of_note.items():
        say(f"{', '.join(datasets)}: {note}")
    if more and not everything:
        say(more)


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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
