"""The findings of a check of a data root, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crab_lightning.files import replace_json
from crab_lightning.program import print_table

if TYPE_CHECKING:
    from rich.console import Console

Level = Literal["error", "warning"]
_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """A problem that was found.

    Args:
        level: ``error``: the problem stops a run or makes its results wrong. ``warning``: it may be a
            mistake.
        kind: Kind of the problem: ``manifest``, ``row``, ``missing``, ``media``, ``mask``, ``annotation``,
            ``grammar``, ``contradiction``, ``classes``, ``duration``, ``sound`` (it begins late or pauses),
            ``repeated`` (one question twice), ``leak_clip`` (same recording in training and test),
            ``leak_content`` (same bytes under two names), ``leak_sound`` (same sound file under two names).
        dataset: Key of the dataset.
        split: ``train`` or ``test``.
        message: Description of the problem and what to do about it.
        row: Number of the row in the manifest, counted from 0; -1 if the problem is about several rows.
    """

    level: Level
    kind: str
    dataset: str
    split: str
    message: str
    row: int = -1


@dataclass
class FileTotals:
    """Counts of one manifest.

    Args:
        dataset: Key of the dataset.
        split: ``train`` or ``test``.
        rows: Number of rows that could be read.
        files: Number of different media files in these rows.
        tokens: Estimated number of tokens of each row.
        seconds: Length in seconds of each different clip whose header states its length.
        target_characters: Number of characters of each target text.
    """

    dataset: str
    split: str
    rows: int = 0
    files: int = 0
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    target_characters: list[int] = field(default_factory=list)


@dataclass
class CheckReport:
    """All findings of a check.

    Args:
        root: The data root.
        decoded: Whether media were decoded, or only their headers read.
        problems: The problems, in the order of datasets, splits and rows.
        totals: One entry for each manifest.
    """

    root: Path
    decoded: bool
    problems: list[Problem]
    totals: list[FileTotals]

    def count(self, level: Level, dataset: str | None = None, split: str | None = None) -> int:
        """Return the number of problems of a level, for all manifests, one dataset or one split."""
        return sum(
            p.level == level and dataset in (None, p.dataset) and split in (None, p.split)
            for p in self.problems
        )

    def to_json(self) -> dict[str, Any]:
        """Return all findings as JSON values. Lists of lengths are replaced by their :func:`summary`."""
        return {
            "root": str(self.root),
            "decoded": self.decoded,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "manifests": [
                {name: summary(v) if isinstance(v, list) else v for name, v in vars(totals).items()}
                for totals in self.totals
            ],
            "problems": [asdict(problem) for problem in self.problems],
        }

    def write(self, path: Path) -> None:
        """Write the findings as a JSON file, completely or not at all."""
        replace_json(path, self.to_json(), indent=1)

    def print(self, console: Console) -> None:
        """Print a row for each manifest, and then the first problems of each kind."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table("dataset", "split", title=f"{self.root}", box=box.SIMPLE_HEAD, padding=0)
        for name in ("rows", "files", "errors", "warn", "tokens", "p95", "max", "clip s"):
            table.add_column(name, justify="right", no_wrap=True)
        for t in self.totals:
            tokens, seconds = summary(t.tokens), summary(t.seconds)
            counts = [self.count(level, t.dataset, t.split) for level in ("error", "warning")]
            lengths = [f"{tokens[key]:,.0f}" if tokens else "-" for key in ("median", "p95", "max")]
            clip = f"{seconds['median']:.1f}" if seconds else "-"
            table.add_row(
                t.dataset, t.split, f"{t.rows:,}", f"{t.files:,}", *(f"{c:,}" for c in counts), *lengths, clip
            )
        print_table(table, console)
        shown: Counter[tuple[str, str, str]] = Counter()
        for p in self.problems:
            key = (p.level, p.kind, p.dataset)
            shown[key] += 1
            if shown[key] <= _EXAMPLES:
                colour = "red" if p.level == "error" else "yellow"
                console.print(
                    f"[{colour}]{p.level}[/] {p.kind} [bold]{p.dataset}[/] {p.split}: {escape(p.message)}"
                )
        for (level, kind, dataset), count in shown.items():
            if count > _EXAMPLES:
                console.print(f"{level} {kind} {dataset}: {count - _EXAMPLES:,} more")


def summary(values: Sequence[float]) -> dict[str, float] | None:
    """Return the smallest, median, 95th percentile, largest and mean value, or ``None`` without values."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    least, median, p95, largest = np.percentile(array, [0, 50, 95, 100])
    return {
        "min": float(least),
        "median": float(median),
        "p95": float(p95),
        "max": float(largest),
        "mean": float(array.mean()),
    }
