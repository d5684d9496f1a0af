"""Sample and verdicts in one SQLite file; every verdict is on disk before the page answers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crab_lightning.builder.review.sample import Item

KINDS = ("accept", "reject", "correct")
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (
  number INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER NOT NULL, reviewer TEXT NOT NULL, kind TEXT NOT NULL,
  text TEXT NOT NULL, note TEXT NOT NULL, time TEXT NOT NULL);
"""


@dataclass(frozen=True)
class ReviewVerdict:
    """What one reviewer says of one row.

    Args:
        item: Number of the row in the sample.
        reviewer: Name.
        kind: ``accept``, ``reject`` or ``correct``.
        text: The corrected text; empty otherwise.
        note: A remark; may be empty.
    """

    item: int
    reviewer: str
    kind: str
    text: str = ""
    note: str = ""


class ReviewStore:
    """The database of one review.

    Args:
        path: The file; made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.executescript(_TABLES)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def begin(self, settings: dict[str, Any], draw: Callable[[], Sequence[Item]]) -> None:
        """Draw the sample, or take that of an earlier call with the same settings.

        Raises:
            ValueError: If the file holds a review with other settings.
        """
        told = json.dumps(settings, sort_keys=True)
        known = self.fact("settings")
        if known is not None:
            if known != told:
                raise ValueError(
                    f"{self.path} holds a review with {known}; this call has {told}. Use the earlier values, "
                    "or name another file with --database"
                )
            return
        items = draw()
        with self._open() as base:
            rows = [(number, json.dumps(asdict(item))) for number, item in enumerate(items)]
            base.executemany("INSERT INTO items VALUES (?, ?)", rows)
            base.execute("INSERT INTO facts VALUES ('settings', ?)", (told,))

    def fact(self, name: str) -> str | None:
        """Return a noted fact."""
        with self._open() as base:
            row = base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note_fact(self, name: str, value: str) -> None:
        """Note a fact."""
        with self._open() as base:
            base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def items(self) -> list[Item]:
        """Return the sample in order."""
        with self._open() as base:
            rows = base.execute("SELECT content FROM items ORDER BY number").fetchall()
        return [Item(**{k: _tuples(v) for k, v in json.loads(row[0]).items()}) for row in rows]

    def add(self, verdict: ReviewVerdict) -> None:
        """Keep a verdict; an earlier one of the same reviewer about the row no longer counts.

        Raises:
            ValueError: If it makes no sense.
        """
        if (
            verdict.kind not in KINDS
            or not 0 <= verdict.item < len(self.items())
            or not verdict.reviewer.strip()
        ):
            raise ValueError("a verdict needs a row of the sample, a reviewer, and accept, reject or correct")
        if verdict.kind == "correct" and not verdict.text.strip():
            raise ValueError("a correction needs a text")
        time = datetime.now(UTC).isoformat(timespec="seconds")
        cells = (verdict.item, verdict.reviewer, verdict.kind, verdict.text, verdict.note, time)
        with self._open() as base:
            base.execute(
                "INSERT INTO verdicts (item, reviewer, kind, text, note, time) VALUES (?, ?, ?, ?, ?, ?)",
                cells,
            )

    def undo(self, reviewer: str) -> int | None:
        """Take a reviewer's last verdict back; return its row's number, ``None`` where there is none."""
        with self._open() as base:
            row = base.execute(
                "SELECT number, item FROM verdicts WHERE reviewer = ? ORDER BY number DESC LIMIT 1",
                (reviewer,),
            ).fetchone()
            if row is None:
                return None
            base.execute("DELETE FROM verdicts WHERE number = ?", (row[0],))
        return int(row[1])

    def verdicts(self) -> dict[tuple[int, str], ReviewVerdict]:
        """Return the verdict that counts, by row and reviewer."""
        with self._open() as base:
            rows = base.execute(
                "SELECT item, reviewer, kind, text, note FROM verdicts ORDER BY number"
            ).fetchall()
        return {(row[0], row[1]): ReviewVerdict(*row) for row in rows}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
