"""Verdicts about rows, one a line, kept while they are made: a killed call loses none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crab_lightning.files import appended, whole_lines

Key = tuple[str, int]
Shard = tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """What became of one row.

    Args:
        source: Manifest of the row: ``train`` or ``weak``.
        row: Its zero-based place there.
        id: Its id.
        length: ``short`` or ``full``; ``direct`` where no reasoning is wanted.
        text: The text; ``None`` for a row that got none.
        tags: Times found for a weakly labelled row, in tags.
        reasons: Why each rejected try was rejected; for a row without a text, the last one says why.
        prompt_tokens: Tokens read in all tries.
        completion_tokens: Tokens written in all tries.
    """

    source: str
    row: int
    id: str
    length: str
    text: str | None
    tags: str | None = None
    reasons: tuple[str, ...] = field(default=())
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def key(self) -> Key:
        """Return what names the row."""
        return self.source, self.row

    @property
    def kind(self) -> str:
        """Return the reason without its details, for a row without a text."""
        return self.reasons[-1].split(":")[0] if self.text is None and self.reasons else ""


class JournalError(ValueError):
    """A file of verdicts that cannot be used."""


def append_verdict(path: Path, header: Mapping[str, Any], verdict: Verdict) -> None:
    """Add a verdict to a file and hand it to the operating system.

    Args:
        path: The file.
        header: What the verdicts depend on; it is the first line.
        verdict: The verdict.
    """
    lines = _line(asdict(verdict))
    if not path.is_file() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _line(header) + lines
    with appended(path) as file:
        file.write(lines)


def journal_name(shard: Shard | None) -> str:
    """Return the name of a file of verdicts: of all rows, or of a part ``(i, n)`` of them."""
    return "verdicts.jsonl" if shard is None else f"verdicts-{shard[0]}-of-{shard[1]}.jsonl"


def read_journals(folder: Path, header: Mapping[str, Any]) -> dict[Key, Verdict]:
    """Return the verdicts of all files of a dataset.

    Raises:
        JournalError: If a file was begun with another header, or two files disagree about a row.
    """
    found: dict[Key, tuple[Verdict, Path]] = {}
    for path in sorted(folder.glob("verdicts*.jsonl")):
        for verdict in _read(path, header):
            before = found.setdefault(verdict.key, (verdict, path))
            if before[0] != verdict:
                raise JournalError(
                    f"{path} and {before[1].name} disagree about the row {verdict.id}. They come from "
                    "different runs. Remove one of the two files, or start again with --restart"
                )
    return {key: verdict for key, (verdict, _) in found.items()}


def _read(path: Path, header: Mapping[str, Any]) -> Iterable[Verdict]:
    for number, line in enumerate(whole_lines(path), 1):
        try:
            content = json.loads(line)
            if number == 1:
                _same(path, content, header)
                continue
            content["reasons"] = tuple(content["reasons"])
            verdict = Verdict(**content)
        except JournalError:
            raise
        except (ValueError, TypeError, KeyError) as err:
            raise JournalError(
                f"{path}, line {number} is not a decision ({err!r}). Remove the line, or start again "
                "with --restart"
            ) from err
        yield verdict


def _same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            raise JournalError(
                f"{path} was begun with {key} = {_short(before.get(key))}; this call has "
                f"{_short(now.get(key))}. Use the earlier value, or start again with --restart; stored"
                f" replies are used again"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(dict(content), ensure_ascii=False) + "\n"
