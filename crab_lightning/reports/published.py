"""The figures that the Crab+ paper prints, with what makes a figure incomparable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from crab_lightning.data.manifests.layout import LAYOUTS, card


@dataclass(frozen=True)
class PublishedFigure:
    """One printed number.

    Args:
        table: Number of the paper's table.
        row: Name of the method as printed.
        dataset: Key of the dataset (released task id).
        metric: Key of the metric.
        percent: The number as printed.
        protocol: How it came about, where released code shows it; empty otherwise.
        not_comparable: Why it cannot be read against scores of this package; empty where it can.
    """

    table: str
    row: str
    dataset: str
    metric: str
    percent: float
    protocol: str
    not_comparable: str


@lru_cache(maxsize=1)
def published_figures() -> tuple[PublishedFigure, ...]:
    """Return every figure of the paper's Tables 2 to 7, in the order printed.

    Raises:
        ValueError: If the data file names a cell that its table has no column for.
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
                figures.append(
                    PublishedFigure(
                        number,
                        row,
                        column["dataset"],
                        column["metric"],
                        float(percent),
                        entry.get("protocol", ""),
                        marks.get(cell, ""),
                    )
                )
    return tuple(figures)


def published_source() -> str:
    """Return the citation of the paper."""
    return str(_content()["source"])


def known_test_samples(dataset: str) -> int | None:
    """Return how many test samples the printed numbers of a dataset rest on; ``None`` where unknown."""
    count = card(dataset).get("test_samples") if dataset in LAYOUTS else None
    return None if count is None else int(count)


@lru_cache(maxsize=1)
def _content() -> dict:  # type: ignore[type-arg]
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    content: dict = yaml.safe_load(text)  # type: ignore[type-arg]
    return content
