"""Store the decisions about rows, each in its own line as soon as it is made, so that none is lost."""

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
    """The decision about one row.

    Args:
        source: Manifest of the row: ``train`` or ``weak``.
        row: Number of the row in the manifest; the first is 0.
        id: Id of the sample.
        length: Length of the reasoning: ``short`` or ``full``; ``direct`` for no reasoning.
        text: The text; ``None`` if there is no usable text.
        tags: For a weakly labelled row, the events with their times in tags.
        reasons: The reason for the rejection of each rejected try; the last one is the reason why a row has
            no text.
        prompt_tokens: Number of tokens that the model has read in all tries.
        completion_tokens: Number of tokens that the model has written in all tries.
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
        """The manifest and the number of the row."""
        return self.source, self.row

    @property
    def kind(self) -> str:
        """The last reason without its details, for a row without a text; empty for other rows."""
        return self.reasons[-1].split(":")[0] if self.text is None and self.reasons else ""


class JournalError(ValueError):
    """A file of decisions cannot be used."""


def append_verdict(path: Path, header: Mapping[str, Any], verdict: Verdict) -> None:
    """Append a decision to a file.

    Args:
        path: The file; it is created if it does not exist.
        header: The settings on which the decisions depend; they become the first line of a new file.
        verdict: The decision.
    """
    lines = _line(asdict(verdict))
    if not path.is_file() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _line(header) + lines
    with appended(path) as file:
        file.write(lines)


def journal_name(shard: Shard | None) -> str:
    """Return the name of the file of the decisions about all rows, or about the part ``(i, n)`` of them."""
    return "verdicts.jsonl" if shard is None else f"verdicts-{shard[0]}-of-{shard[1]}.jsonl"


def read_journals(folder: Path, header: Mapping[str, Any]) -> dict[Key, Verdict]:
    """Return the decisions in all files of a dataset.

    Args:
        folder: Folder of the files.
        header: The current settings on which decisions depend.

    Raises:
        JournalError: If the header of a file differs from ``header``, if a line is damaged, or if two files
            disagree about a row.
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
