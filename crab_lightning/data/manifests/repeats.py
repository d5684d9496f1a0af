"""Finds questions that occur more than once in a test manifest."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crab_lightning.structures import Sample
from crab_lightning.tasks.base import Task

ASKED_AGAIN = "asked_again"
"""Field of a sample with the number of later rows that ask the same question, if there are any."""

_log = logging.getLogger(__name__)
# Fields that make the question of a row, together with its media, if there is no task.
_ASKED = ("question", "options", "options_text", "expression")
_NAMES = frozenset({"question_id", "video_id", "uid", ASKED_AGAIN})


@dataclass(frozen=True)
class Repeat:
    """A row that asks the same question as an earlier row.

    Args:
        row: Number of the row, counted from 0.
        first: Number of the earlier row.
        same_id: Whether both rows have the same id. Then only the first one is asked.
        agrees: Whether both rows have the same answer.
    """

    row: int
    first: int
    same_id: bool
    agrees: bool

    @property
    def message(self) -> str:
        """The description of the problem, for people."""
        answers = "" if self.agrees else ", and has another answer"
        counted = (
            f"Row {self.first} alone is asked and scored. Remove one of the two"
            if self.same_id
            else "Both are asked and scored, since their ids differ. Remove one if that is a mistake"
        )
        return f"row {self.row}: it asks the same about the same clip as row {self.first}{answers}. {counted}"


def find_repeats(samples: Sequence[Sample], task: Task[Any] | None = None) -> list[Repeat]:
    """Return the rows that ask the same question as an earlier row.

    Args:
        samples: The samples of one manifest, before equal ids are numbered.
        task: Task that makes the questions.
    """
    first: dict[Hashable, Sample] = {}
    own: dict[Hashable, Sample] = {}
    repeats = []
    for sample in samples:
        asked: Hashable = (
            sample.videos,
            sample.images,
            sample.audios,
            sample.unit,
            *_question(sample, task),
        )
        same_id = (sample.id, asked) in own
        earlier = own.setdefault((sample.id, asked), sample) if same_id else first.get(asked)
        first.setdefault(asked, sample)
        own.setdefault((sample.id, asked), sample)
        if earlier is not None:
            repeats.append(Repeat(sample.row, earlier.row, same_id, _answer(sample) == _answer(earlier)))
    return repeats


def _question(sample: Sample, task: Task[Any] | None) -> tuple[Hashable, ...]:
    if task is not None:
        with contextlib.suppress(KeyError, ValueError):  # a row without a question is reported elsewhere
            return task.conversation(sample)
    return tuple(sample.fields.get(name) for name in _ASKED)


def asked_once(samples: list[Sample], path: Path, where: str, task: Task[Any] | None = None) -> list[Sample]:
    """Leave out rows that repeat the question of an earlier row with the same id, and log their number.

    Otherwise such a question would count twice, and an answer file without ids could not answer both rows.

    Args:
        samples: The samples of a test manifest.
        path: The manifest.
        where: Key of the dataset, for the message.
        task: Task that makes the questions.

    Returns:
        The other samples. Those with repeats have the field ``ASKED_AGAIN``.
    """
    repeats = [repeat for repeat in find_repeats(samples, task) if repeat.same_id]
    if not repeats:
        return samples
    contradictory = sum(not repeat.agrees for repeat in repeats)
    _log.warning(
        "%s: %d of %d rows of %s repeat the question of an earlier row (first: row %d as row %d, "
            "counted from 0), %d of them with another answer. Each question is asked and scored once, with "
            "the answer that comes first. Remove the others.",
        where, len(repeats), len(samples), path, repeats[0].row, repeats[0].first, contradictory,
    )  # fmt: skip
    again: dict[int, int] = {}
    for repeat in repeats:
        again[repeat.first] = again.get(repeat.first, 0) + 1
    left_out = {repeat.row for repeat in repeats}
    return [
        replace(sample, fields={**sample.fields, ASKED_AGAIN: again[sample.row]})
        if sample.row in again
        else sample
        for sample in samples
        if sample.row not in left_out
    ]


def _answer(sample: Sample) -> tuple[object, ...]:
    told = {name: value for name, value in sample.fields.items() if name not in _NAMES}
    return sample.reference, told
