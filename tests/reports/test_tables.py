"""Tables in their four formats."""

from __future__ import annotations

import csv
import re

import pytest

from crab_lightning.reports.page import single_metrics
from crab_lightning.reports.tables import FORMATS, INTERVAL, IntervalCell, PlainTable, percent, signed


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
    wanted = [[cell.replace("−", "-") for cell in row] for row in table.rows]
    assert list(csv.reader(FORMATS["csv"](table).splitlines())) == [table.columns, *wanted]


def test_csv_has_numbers_alone_with_an_interval_in_three_columns_and_the_notes_of_a_row() -> None:
    table = PlainTable("", ["dataset", "metric", "a (1)", f"Δ b{INTERVAL}"])
    mark = table.mark("5 of 6 samples")
    table.add(["x(1)", "map", "3.50†" + mark, IntervalCell("−1.00", "−2.50", "+0.50", "*") + mark])
    table.add(["y", "map", "–", "–"])
    table.add(["z", "map", "2.00", "+1.00" + table.mark("no interval")])
    assert table.rows[0][3] == "−1.00 [−2.50, +0.50]*(1)"
    assert list(csv.reader(FORMATS["csv"](table).splitlines())) == [
        ["dataset", "metric", "a (1)", "Δ b", "Δ b low", "Δ b high", "notes"],
        ["x(1)", "map", "3.50", "-1.00", "-2.50", "+0.50", "(1) 5 of 6 samples."],
        ["y", "map", "", "", "", "", ""],
        ["z", "map", "2.00", "+1.00", "", "", "(2) no interval."],
    ]


def test_latex_escapes_what_latex_would_read(table: PlainTable) -> None:
    text = FORMATS["latex"](table)
    assert r"dataset & metric & run\_1 \\" in text
    assert r"$-$1.00 [$-$2.00, 0.50]" in text
    assert r"\caption{A \& B. (1) 5 \% of it.}" in text


HOSTILE = [
    "a_b",
    "5 % & more",
    "$x$ #1 {y}",
    "~^\\cmd",
    "a\nb",
    "<0.0001",
    "a|b>c",
    "[0.1, 0.2]*",
    "*",
    "−1 – 2 → Δ†",
]


def test_latex_is_read_as_rows_of_cells_whatever_the_words() -> None:
    """Read the output as LaTeX does: braces and math in pairs, no special character that is not escaped."""
    table = PlainTable("T_1 & 100 %", ["dataset", "metric", *HOSTILE], notes=["(1) ~5 % of {it}_2."])
    for i in range(len(HOSTILE)):
        table.add([HOSTILE[i], "m_1", *HOSTILE[i:], *HOSTILE[:i]])
    lines = FORMATS["latex"](table).splitlines()
    assert lines[0].startswith("%")
    spec = re.fullmatch(r"\\begin\{tabular\}\{(l+r+)\}", lines[3])
    assert spec is not None
    frame = "begin{table} centering toprule midrule bottomrule end{tabular} end{table}"
    assert [lines[i] for i in (1, 2, 4, 6, -4, -3, -1)] == [rf"\{word}" for word in frame.split()]
    known = r"\\(?:[&%$#_{}]|textbackslash\{\}|textascii(?:tilde|circum)\{\})"
    for line in (lines[5], *lines[7:-4], lines[-2]):
        line.encode("latin-1")  # what else there is, LaTeX knows only by a name
        text = re.sub(r"\$(?:[<>|-]|\\Delta|\\rightarrow|\^\\dagger)\$", "", line)
        text = re.sub(known, "", text.removesuffix(r" \\"))
        text = re.sub(r"^\\caption\{(.*)\}$", r"\1", text)
        assert not re.search(r"[\\%$#_^~<>|{}]", text.replace("{}[", "").replace("{}*", "")), line
    rows = [lines[5], *lines[7:-4]]
    assert len(rows) == len(HOSTILE) + 1
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(spec[1]) - 1
        assert not row.startswith(("[", "*"))


def test_names_of_datasets_stand_for_their_keys_except_in_csv() -> None:
    table = PlainTable(
        "T", ["dataset", "partner", "arm", "ties"], names={"ks": "Kinetics-Sounds", "s4": "S 4"}
    )
    table.add(["ks", "mine", "ks", "s4, ks, none"])
    for kind, write in FORMATS.items():
        row = "ks mine ks s4,ks,none" if kind == "csv" else "Kinetics-Sounds mine ks S4,Kinetics-Sounds,none"
        said = "".join(c for c in write(table) if c not in '|&" \\\n')
        assert (row.replace(" ", "," if kind == "csv" else "")) in said


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
