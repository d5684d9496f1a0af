"""The HTML page of ``build stats``: one file that loads nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from crab_lightning.builder.statistics import OWN, PAPER_TASKS, Composition, DatasetStatistics, Statistics
from crab_lightning.files import replace_json, replace_text
from crab_lightning.fonts import new_figure
from crab_lightning.templates import render

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b2b200", "#7f7f7f")
"""Colours of Okabe and Ito, one for each task; colour-blind readers can tell them apart."""
_MANY_TIMES = 20
"""The scale is logarithmic if the largest class count is more than this factor times the smallest."""


def draw_figures(statistics: Statistics, folder: Path) -> list[tuple[str, Path]]:
    """Draw every picture for which there are numbers.

    Args:
        statistics: The numbers.
        folder: Existing folder for the PNG files.

    Returns:
        The caption and the file of each picture.
    """
    made = []
    for name, (draw, caption) in _PICTURES.items():
        figure = draw(statistics)
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
            made.append((caption, path))
    return made


def _composition(statistics: Statistics) -> Figure:
    from crab_lightning.builder.datasets import IMPORTERS

    paper = [
        Composition(task, IMPORTERS[name].title, round(1000 * IMPORTERS[name].paper_k), 0, None)
        for task, names in PAPER_TASKS.items()
        for name in names
    ]
    figure = new_figure(figsize=(13, 6.5))
    for place, (title, lines) in enumerate((("here", statistics.composition), ("paper", paper)), 1):
        _donut(figure.add_subplot(1, 2, place), title, lines)
    return figure


def _donut(axes: Any, title: str, lines: Sequence[Composition]) -> None:
    order = [*PAPER_TASKS, OWN]
    tasks = [task for task in order if any(line.task == task and line.train for line in lines)]
    total = sum(line.train for line in lines)
    sizes = [sum(line.train for line in lines if line.task == task) for task in tasks]
    colours = [_COLOURS[order.index(task) % len(_COLOURS)] for task in tasks]
    edge = {"width": 0.3, "edgecolor": "white"}
    axes.pie(
        sizes,
        radius=0.7,
        colors=colours,
        wedgeprops=edge,
        labels=[f"{100 * size / total:.0f} %" for size in sizes],
        labeldistance=0.72,
        textprops={"fontsize": 8, "color": "white", "ha": "center", "va": "center"},
    )
    ordered = [line for task in tasks for line in lines if line.task == task and line.train]
    axes.pie(
        [line.train for line in ordered],
        radius=1.0,
        colors=[_COLOURS[order.index(line.task) % len(_COLOURS)] + "aa" for line in ordered],
        wedgeprops=edge,
        labels=[line.title.split(",")[0] for line in ordered],
        textprops={"fontsize": 8},
    )
    axes.set_title(f"{title}: {total:,} rows", fontsize=11)
    handles = [f"{task} ({size:,})" for task, size in zip(tasks, sizes, strict=True)]
    patches = axes.patches[: len(tasks)]
    axes.legend(patches, handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=8, ncols=2)


def _text_lengths(statistics: Statistics) -> Figure | None:
    rows = [
        (one.name, one.reasoning_words.mean, one.answer_words.mean, one.text_words.p95)
        for one in statistics.datasets
        if one.text_words and one.answer_words and one.reasoning_words
    ]
    if not rows:
        return None
    figure = new_figure(figsize=(8, 1 + 0.3 * len(rows)))
    axes = figure.add_subplot()
    names, more, answers, longest = zip(*rows, strict=True)
    axes.barh(names, more, color=_COLOURS[0], label="before the answer")
    axes.barh(names, answers, left=more, color=_COLOURS[1], label="bare answer")
    axes.plot(longest, range(len(rows)), "k|", markersize=9, label="95 % are shorter")
    axes.invert_yaxis()
    axes.set_xlabel("words, mean")
    axes.legend(fontsize=8)
    return figure


def _panels(rows: Sequence[DatasetStatistics]) -> tuple[Figure, list[Any]]:
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure(figsize=(3.2 * columns, 2.2 * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, i + 1) for i in range(len(rows))]


def _classes(statistics: Statistics) -> Figure | None:
    rows = [one for one in statistics.datasets if len(one.classes) > 1]
    if not rows:
        return None
    figure, panels = _panels(rows)
    for axes, one in zip(panels, rows, strict=True):
        axes.bar(range(len(one.classes)), list(one.classes.values()), color=_COLOURS[0], width=1.0)
        counts = list(one.classes.values())
        if counts[0] > _MANY_TIMES * counts[-1]:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.8)
        axes.set_title(f"{one.name}: {len(one.classes)} classes", fontsize=9)
        axes.tick_params(labelsize=7)
    return figure


def _event_lengths(statistics: Statistics) -> Figure | None:
    rows = [one for one in statistics.datasets if one.event_lengths]
    if not rows:
        return None
    figure, panels = _panels(rows)
    for axes, one in zip(panels, rows, strict=True):
        axes.bar(list(one.event_lengths), list(one.event_lengths.values()), color=_COLOURS[2])
        axes.set_title(f"{one.name}: {sum(one.event_lengths.values()):,} events", fontsize=9)
        axes.set_xlabel("tenths of the clip" if one.layout == "unav" else "seconds", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


_PICTURES: dict[str, tuple[Callable[[Statistics], Figure | None], str]] = {
    "composition": (
        _composition,
        "Training rows by task (inner ring) and source dataset (outer ring): this data root, and the paper's"
        " Fig. 3 (b).",
    ),
    "text_lengths": (_text_lengths, "Words of the training texts: the bare answer, and the text before it."),
    "classes": (_classes, "Training rows of each class, most frequent first; some scales are logarithmic."),
    "event_lengths": (
        _event_lengths,
        "Lengths of the annotated events in seconds (UnAV-100: tenths of the clip).",
    ),
}
"""For each picture, the function that draws it and its caption."""

PAGE = "statistics.html"
NUMBERS = "statistics.json"


def write_statistics(statistics: Statistics, folder: Path) -> list[Path]:
    """Write the page, the pictures and the numbers.

    Args:
        statistics: The numbers.
        folder: Folder for the files; it is created if it does not exist.

    Returns:
        The written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(statistics, folder)
    page, numbers = folder / PAGE, folder / NUMBERS
    replace_text(page, page_text(statistics, pictures))
    replace_json(numbers, asdict(statistics), indent=1)
    return [page, numbers, *(path for _, path in pictures)]


def page_text(statistics: Statistics, pictures: Sequence[tuple[str, Path]] = ()) -> str:
    """Return the HTML page; all texts from manifests are escaped.

    Args:
        statistics: The numbers.
        pictures: The caption and the PNG file of each picture.
    """
    images = [(text, base64.b64encode(path.read_bytes()).decode()) for text, path in pictures]
    title = f"Statistics of {statistics.root}"
    return render("builder/statistics.html.j2", title=title, s=statistics, pictures=images)
