"""Writes a table in four formats: aligned text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from crab_lightning.metrics.scale import Scale


class IntervalCell(str):
    """A number with its interval as the text of a cell, which CSV writes as three cells.

    Args:
        value: The number.
        low: Lower end of the interval.
        high: Upper end of the interval.
        marks: Marks behind the interval.
    """

    parts: tuple[str, str, str]

    def __new__(cls, value: str, low: str, high: str, marks: str = "") -> IntervalCell:
        """Return the text ``value [low, high]`` with the marks behind it."""
        made = super().__new__(cls, f"{value} [{low}, {high}]{marks}")
        made.parts = (value, low, high)
        return made

    def __add__(self, marks: str) -> IntervalCell:
        return IntervalCell(*self.parts, self.rpartition("]")[2] + marks)


INTERVAL = " [95 % CI]"
"""End of the name of a column whose cells are :class:`IntervalCell`."""
_ENDS = ("", " low", " high")
_MARK = re.compile(r"\(\d+\)")
"""Mark of a footnote, which begins with it."""


@dataclass
class PlainTable:
    """A table of texts with footnotes.

    Args:
        title: Title of the table.
        columns: Names of the columns.
        rows: The cells of each row, one for each column.
        notes: Footnotes, in the order of their marks.
        left: Number of columns at the beginning that are aligned left.
        names: Names of datasets by key. Cells contain keys. CSV keeps them, and the other formats write the
            names.
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: int = 2
    names: dict[str, str] = field(default_factory=dict)

    def add(self, cells: Sequence[str]) -> None:
        """Add a row.

        Raises:
            ValueError: If the number of cells is not the number of columns.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"a row of {len(cells)} cells in a table of {len(self.columns)} columns")
        self.rows.append(list(cells))

    def shown(self) -> list[list[str]]:
        """Return the rows with the names of datasets instead of their keys."""
        columns = [name in _OF_DATASETS for name in self.columns]
        return [
            [named(cell, self.names) if is_key else cell for cell, is_key in zip(row, columns, strict=True)]
            for row in self.rows
        ]

    def mark(self, text: str) -> str:
        """Return the mark of a footnote, which is added if it is new. An empty text has no mark."""
        if not text:
            return ""
        found = [i for i, note in enumerate(self.notes, 1) if note == f"({i}) {text}."]
        if not found:
            self.notes.append(f"({len(self.notes) + 1}) {text}.")
            found = [len(self.notes)]
        return f"({found[0]})"


_OF_DATASETS = ("dataset", "partner", "ties")
"""Names of columns with keys of datasets."""


def named(keys: str, names: Mapping[str, str]) -> str:
    """Return a comma-separated list of dataset keys as names. A key without a name stays unchanged."""
    return ", ".join(names.get(key, key) for key in keys.split(", "))


def to_text(table: PlainTable) -> str:
    """Return the table as aligned text for a terminal."""
    rows = table.shown()
    grid = [table.columns, *rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]

    def line(row: Sequence[str]) -> str:
        cells = [
            c.ljust(w) if i < table.left else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, "", line(table.columns), rule, *map(line, rows), *_noted(table)])


def to_markdown(table: PlainTable) -> str:
    """Return the table as Markdown for GitHub."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = ["---" if i < table.left else "---:" for i in range(len(table.columns))]
    return "\n".join(
        [f"**{table.title}**", "", line(table.columns), line(rule), *map(line, table.shown()), *_noted(table)]
    )


def to_csv(table: PlainTable) -> str:
    """Return the table as CSV, without the title, so that every line is a row.

    Numbers have no marks, a number with an interval has three columns, and the footnotes of a row are in its
    last cell.
    """
    wide = [any(isinstance(row[i], IntervalCell) for row in table.rows) for i in range(len(table.columns))]
    names = [
        part
        for name, is_wide in zip(table.columns, wide, strict=True)
        for part in ([f"{name.removesuffix(INTERVAL)}{end}" for end in _ENDS] if is_wide else [name])
    ]
    known = {note.partition(" ")[0]: note for note in table.notes if _MARK.match(note)}
    rows, noted = [], []
    for row in table.rows:
        marks = dict.fromkeys(mark for cell in row for mark in _MARK.findall(cell) if mark in known)
        noted.append(" ".join(known[mark] for mark in marks))
        cells: list[str] = []
        for column, cell, is_wide in zip(table.columns, row, wide, strict=True):
            parts = cell.parts if isinstance(cell, IntervalCell) else (cell, *[""] * (2 * is_wide))
            cells += parts if column in _OF_DATASETS else [_plain(part, known) for part in parts]
        rows.append(cells)
    if any(noted):
        names.append("notes")
        rows = [[*cells, note] for cells, note in zip(rows, noted, strict=True)]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    return out.getvalue().rstrip("\n")


def _plain(text: str, marks: Iterable[str]) -> str:
    """Return the text of a cell without marks, with an ASCII minus, and empty instead of a dash."""
    for mark in marks:
        text = text.replace(mark, "")
    return "" if text == "–" else re.sub(r"−(?=\d)", "-", text.rstrip("†*"))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",  # in the font that LaTeX begins with, these three are other characters
    ">": "$>$",
    "|": "$|$",
    "\n": " ",
    "–": "--",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "†": r"$^\dagger$",
}


def to_latex(table: PlainTable) -> str:
    """Return the table as LaTeX, for the package booktabs."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)

    def line(cells: Sequence[str]) -> str:
        first, *others = map(escaped, cells)
        if first.startswith(("[", "*")):  # LaTeX would add these to the end of the row before
            first = "{}" + first
        return " & ".join([first, *others]) + r" \\"

    caption = escaped(" ".join([table.title + ".", *table.notes]))
    spec = "l" * table.left + "r" * (len(table.columns) - table.left)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *map(line, table.shown()),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
        ]
    )


FORMATS: dict[str, Callable[[PlainTable], str]] = {
    "table": to_text,
    "markdown": to_markdown,
    "csv": to_csv,
    "latex": to_latex,
}


def _noted(table: PlainTable) -> list[str]:
    return ["", *(f"{note}  " for note in table.notes)] if table.notes else []


percent = Scale().text
"""Returns a fraction as a percentage with two decimals, or a dash."""
signed = Scale().signed
"""Returns a fraction as signed percentage points."""
