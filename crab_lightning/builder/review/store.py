"""Store the sample and the decisions of a review in one SQLite file, and compute acceptance rates."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
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
    """The decision of one reviewer about one row.

    Args:
        item: Number of the row in the sample; the first is 0.
        reviewer: Name of the reviewer.
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
        path: The file; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.executescript(_TABLES)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def begin(self, settings: dict[str, Any], draw: Callable[[], Sequence[Item]]) -> None:
        """Choose and store the sample, or keep the sample of an earlier call with the same settings.

        Args:
            settings: Settings on which the sample depends.
            draw: Function that chooses the sample.

        Raises:
            ValueError: If the file contains a review with other settings.
        """
        told = json.dumps(settings, sort_keys=True)
        known = self.fact("settings")
        if known is not None:
            if known != told:
                raise ValueError(
                    f"{self.path} contains a review with {known}; this call has {told}. Use the earlier "
                    "values, or name another file with --database"
                )
            return
        items = draw()
        with self._open() as base:
            rows = [(number, json.dumps(asdict(item))) for number, item in enumerate(items)]
            base.executemany("INSERT INTO items VALUES (?, ?)", rows)
            base.execute("INSERT INTO facts VALUES ('settings', ?)", (told,))

    def fact(self, name: str) -> str | None:
        """Return the stored value of a name; ``None`` if there is none."""
        with self._open() as base:
            row = base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note_fact(self, name: str, value: str) -> None:
        """Store the value of a name."""
        with self._open() as base:
            base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def items(self) -> list[Item]:
        """Return the rows of the sample in order."""
        with self._open() as base:
            rows = base.execute("SELECT content FROM items ORDER BY number").fetchall()
        return [Item(**{k: _tuples(v) for k, v in json.loads(row[0]).items()}) for row in rows]

    def add(self, verdict: ReviewVerdict) -> None:
        """Store a decision; it replaces an earlier decision of the same reviewer about the same row.

        Raises:
            ValueError: If the row is not in the sample, the name of the reviewer is empty, the kind is
                unknown, or a correction has no text.
        """
        if (
            verdict.kind not in KINDS
            or not 0 <= verdict.item < len(self.items())
            or not verdict.reviewer.strip()
        ):
            raise ValueError(
                "a decision needs a row of the sample, a reviewer, and accept, reject or correct"
            )
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
        """Remove the last decision of a reviewer.

        Returns:
            The number of the row; ``None`` if the reviewer has made no decision.
        """
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
        """Return the last decision about each row of each reviewer, by row number and reviewer."""
        with self._open() as base:
            rows = base.execute(
                "SELECT item, reviewer, kind, text, note FROM verdicts ORDER BY number"
            ).fetchall()
        return {(row[0], row[1]): ReviewVerdict(*row) for row in rows}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Rate:
    """The decisions about the rows of one dataset.

    Args:
        dataset: Key of the dataset; ``all`` for all datasets together.
        counts: Number of decisions by kind.
        rate: Fraction of the decisions that accept the text; 0 without decisions.
        low: Lower end of the 95 % Wilson interval of the rate.
        high: Upper end of the interval.
    """

    dataset: str
    counts: Counter[str]
    rate: float
    low: float
    high: float


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction (Wilson, JASA 1927).

    Args:
        hits: Number of successes.
        count: Number of trials; without trials, the interval is 0 to 1.
    """
    if not count:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(hits, count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def rates(items: Sequence[Item], verdicts: Iterable[ReviewVerdict]) -> list[Rate]:
    """Return the acceptance rates of each dataset, and of all datasets together."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for name in (items[verdict.item].dataset, "all"):
            counts[name][verdict.kind] += 1
    order = [*dict.fromkeys(item.dataset for item in items), "all"]
    found = []
    for name in order:
        hits, count = counts[name]["accept"], counts[name].total()
        found.append(Rate(name, counts[name], hits / count if count else 0.0, *wilson(hits, count)))
    return found


def kappas(verdicts: Iterable[ReviewVerdict]) -> list[tuple[str, str, int, float]]:
    """Return Cohen's kappa (1960) of every two reviewers who have decided about the same rows.

    Returns:
        The two names, the number of common rows, and kappa. Kappa is NaN if both reviewers made only one and
        the same kind of decision.
    """
    said: dict[str, dict[int, str]] = defaultdict(dict)
    for verdict in verdicts:
        said[verdict.reviewer][verdict.item] = verdict.kind
    found = []
    for one, other in combinations(sorted(said), 2):
        common = said[one].keys() & said[other].keys()
        if not common:
            continue
        count = len(common)
        agreed = sum(said[one][i] == said[other][i] for i in common) / count
        first, second = (Counter(said[name][i] for i in common) for name in (one, other))
        chance = sum(first[kind] * second[kind] for kind in first) / count**2
        found.append((one, other, count, math.nan if chance == 1 else (agreed - chance) / (1 - chance)))
    return found
