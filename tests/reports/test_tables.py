"""Tables in their four formats."""

from __future__ import annotations

import csv

import pytest

from crab_lightning.reports.results import single_metrics
from crab_lightning.reports.tables import FORMATS, PlainTable, percent, signed


@pytest.fixture
def table() -> PlainTable:
    made = PlainTable("A & B", ["dataset", "metric", "run_1"], notes=["(1) 5 % of it."])
    made.add(["AVE", "a|b", "−1.00 [−2.00, 0.50]"])
    return made


def test_markdown_escapes_pipes_and_aligns_numbers_right(table: PlainTable) -> None:
    lines = FORMATS["markdown"](table).splitlines()
    assert lines[3] == "| --- | --- | ---: |"
    assert lines[4] == r"| AVE | a\|b | −1.00 [−2.00, 0.50] |"


def test_csv_reads_back(table: PlainTable) -> None:
    assert list(csv.reader(FORMATS["csv"](table).splitlines())) == [table.columns, *table.rows]


def test_latex_escapes_what_latex_would_read(table: PlainTable) -> None:
    text = FORMATS["latex"](table)
    assert r"dataset & metric & run\_1 \\" in text
    assert r"$-$1.00 [$-$2.00, 0.50]" in text
    assert r"\caption{A \& B. (1) 5 \% of it.}" in text


def test_text_columns_line_up(table: PlainTable) -> None:
    lines = FORMATS["table"](table).splitlines()
    assert len(lines[3]) == len(lines[4])


def test_row_of_another_width_is_refused(table: PlainTable) -> None:
    with pytest.raises(ValueError, match="2 cells in a table of 3 columns"):
        table.add(["AVE", "x"])


def test_numbers_print_as_percent() -> None:
    assert [percent(0.1234), percent(None)] == ["12.34", "–"]
    assert [signed(-0.00001), signed(-0.1), signed(0.05)] == ["0.00", "−10.00", "+5.00"]


def test_the_primary_metric_comes_first_and_lists_are_left_out() -> None:
    entry = {"headline": "b", "strict": {"a": 1.0, "b": 0.5, "counts": [1, 2], "c": None}}
    assert list(single_metrics(entry)) == ["b", "a", "c"]
