"""The figures in the Crab+ paper, with the reasons why some cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from crab_lightning.data.manifests.layout import LAYOUTS, card


@dataclass(frozen=True)
class PublishedFigure:
    """One number in a table of the paper.

    Args:
        table: Number of the table.
        row: Name of the method as printed.
        dataset: Key of the dataset (released task id).
        metric: Key of the metric.
        percent: The number as printed.
        not_comparable: Why the number cannot be compared with scores of this package; empty if it can.
    """

    table: str
    row: str
    dataset: str
    metric: str
    percent: float
    not_comparable: str


@lru_cache(maxsize=1)
def published_figures() -> tuple[PublishedFigure, ...]:
    """Return all figures of Tables 2 to 7 of the paper, in the printed order.

    Raises:
        ValueError: If the data file has a cell without a column in its table.
    """
    content = _content()
    figures = []
    for number, table in content["tables"].items():
        for row, entry in table["rows"].items():
            marks = entry.get("not_comparable", {})
            if wrong := ({*entry["cells"], *marks} - set(table["columns"])):
                raise ValueError(f"published.yaml: table {number}, row {row}: no column {sorted(wrong)[0]}")
            for cell, percent in entry["cells"].items():
                column = content["columns"][cell]
                about = (column["dataset"], column["metric"], float(percent), marks.get(cell, ""))
                figures.append(PublishedFigure(number, row, *about))
    return tuple(figures)


def published_source() -> str:
    """Return the citation of the paper."""
    return str(_content()["source"])


def known_test_samples(dataset: str) -> int | None:
    """Return the number of test samples behind the printed numbers of a dataset; ``None`` if not known."""
    count = card(dataset).get("test_samples") if dataset in LAYOUTS else None
    return None if count is None else int(count)


@lru_cache(maxsize=1)
def _content() -> dict:  # type: ignore[type-arg]
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    content: dict = yaml.safe_load(text)  # type: ignore[type-arg]
    return content
