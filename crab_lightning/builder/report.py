"""What an import found and did, split by split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


_HEADS = ("manifest", "official", "rows", "found", "missing", "unreadable", "unusable", "written")


@dataclass
class SplitCount:
    """Numbers of one manifest.

    Args:
        task: Task id.
        split: Stem of the manifest.
        expected: Official number of rows; ``None`` where it is not known.
        rows: Rows in the owner's files.
        found: Rows whose media are all there.
        missing: Rows that lack a media file.
        unreadable: Rows with a media file that cannot be read.
        rejected: Rows that no manifest can hold.
        written: Rows of the manifest.
    """

    task: str
    split: str
    expected: int | None = None
    rows: int = 0
    found: int = 0
    missing: int = 0
    unreadable: int = 0
    rejected: int = 0
    written: int = 0


@dataclass(frozen=True)
class Lost:
    """An official row that is not in the manifest: ``missing``, ``unreadable`` or ``unusable``."""

    task: str
    split: str
    name: str
    kind: str
    reason: str


@dataclass
class ImportReport:
    """The outcome of one import.

    Args:
        dataset: Name of the importer.
        title: Name of the dataset.
        splits: Counts by manifest.
        lost: Every official row that is in no manifest, with the reason.
        notes: Irregularities and their number.
        media: Number of files by what became of them.
        dry_run: Whether nothing was written.
    """

    dataset: str
    title: str
    splits: list[SplitCount] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    dry_run: bool = False

    def at(self, task: str, split: str) -> SplitCount:
        """Return the numbers of one manifest; all zero at first."""
        known = next((one for one in self.splits if (one.task, one.split) == (task, split)), None)
        if known is None:
            self.splits.append(known := SplitCount(task, split))
        return known

    def lose(self, lost: Lost) -> None:
        """Count and list an official row that is in no manifest."""
        count, kind = self.at(lost.task, lost.split), lost.kind
        count.missing += kind == "missing"
        count.unreadable += kind == "unreadable"
        count.rejected += kind == "unusable"
        self.lost.append(lost)

    def jsonable(self) -> dict[str, Any]:
        """Return the numbers, without the list of lost rows."""
        return {
            "dataset": self.dataset,
            "splits": [vars(split) for split in self.splits],
            "notes": dict(self.notes),
            "media": dict(sorted(self.media.items())),
        }

    def print(self, console: Console) -> None:
        """Print the table and what is irregular."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left", box=None, padding=(0, 1))
        for i, head in enumerate(_HEADS):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        for s in self.splits:
            expected = "unknown" if s.expected is None else f"{s.expected:,}"
            unread = "not read" if self.dry_run else f"{s.unreadable:,}"
            written = "none" if self.dry_run else f"{s.written:,}"
            cells = (expected, s.rows, s.found, s.missing, unread, s.rejected, written)
            told = [cell if isinstance(cell, str) else f"{cell:,}" for cell in cells]
            table.add_row(f"{s.task}/{s.split}.json", *told)
        console.print(table)
        files = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.media.items()))
        if files:
            console.print(Text(f"media files: {files}"), soft_wrap=True)
        for note, count in self.notes.items():
            console.print(Text(f"note: {note} ({count:,})"), soft_wrap=True)
        for lost in self.lost[:5]:
            text = f"{lost.task}/{lost.split}.json has not {lost.name}: {lost.kind}, {lost.reason}"
            console.print(Text(text), soft_wrap=True)
        if len(self.lost) > 5:
            console.print(Text(f"... and {len(self.lost) - 5:,} more rows"))
