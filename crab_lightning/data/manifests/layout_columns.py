"""What one column of a manifest may hold, and how its value becomes a bridged field.

A reader takes the JSON value and returns the field's value; it raises :class:`ColumnError` with what it would
have accepted. The manifest reader adds file, row and key to the message.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crab_lightning.tasks.answers import read_choice

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
# Larger ones overflow where they become tensors; no frame number, pixel or time is near.
_LARGEST = 10**9
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")


class ColumnError(ValueError):
    """A value that a column cannot hold; the message says what it can."""


@dataclass(frozen=True)
class Column:
    """One key that a row must have.

    Args:
        key: Name in the JSON file.
        read: Turns the JSON value into the field's value.
        field: Name in ``Sample.fields``; ``None`` for a key that the released code reads in vain.
    """

    key: str
    read: Callable[[Any], Any]
    field: str | None = None


def anything(value: Any) -> Any:
    """Accept any JSON value, also an empty one."""
    return value


def annotation(value: Any) -> str:
    """Accept events in any form, as text: tags, a list of them, or nothing (a clip without events)."""
    return "" if value is None else str(value)


def text(value: Any) -> str:
    """Accept a string that is not blank and can be written as UTF-8."""
    if not isinstance(value, str):
        raise ColumnError("a string")
    if not value or value.isspace():
        raise ColumnError("a string that is not empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as err:
            raise ColumnError("a string without half surrogate pairs") from err
    return value


def word(value: Any) -> str:
    """Accept a string, or a number as it prints."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return text(value)


def integer(value: Any) -> int:
    """Accept a whole number that is not negative: ``7``, ``"7"`` or ``7.0``.

    The released files hold integers; files that went through a spreadsheet or pandas hold the other two.
    """
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    if whole or (isinstance(value, str) and _INTEGER.fullmatch(value.strip())):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ColumnError("a whole number such as 3")
    if value < 0:
        raise ColumnError("a whole number that is not negative")
    if value > _LARGEST:
        raise ColumnError(f"a whole number up to {_LARGEST:,}")
    return value


def seconds(value: Any) -> int | float:
    """Accept a time in seconds that is not negative, as a number or its decimal string."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = int(value) if _INTEGER.fullmatch(value.strip()) else float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ColumnError("a time in seconds such as 3")
    if not 0 <= value < math.inf:
        raise ColumnError("a time in seconds that is finite and not negative")
    if value > _LARGEST:
        raise ColumnError(f"a time in seconds up to {_LARGEST:,}")
    return value


def choice(value: Any) -> int:
    """Accept one of two candidates: ``1``, ``"1"``, ``"one"``, ``"first"``, ``"video 1"`` and so for two."""
    found = read_choice(word(value))
    if found is None:
        raise ColumnError("1 or 2, or 'one' or 'two'")
    return found


def corner(value: Any) -> tuple[int, int]:
    """Accept one corner of a box: a list ``[x, y]`` of two whole numbers, in pixels."""
    if not isinstance(value, list) or len(value) != 2:
        raise ColumnError("a list [x, y] of two whole numbers")
    return integer(value[0]), integer(value[1])


def question_kind(value: Any) -> tuple[str, str]:
    """Accept MUSIC-AVQA's question type, a list ``[modality, type]`` or that list as a JSON string."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise ColumnError('a list such as ["Audio", "Counting"], or that list as a string') from err
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, str) and v for v in value):
        raise ColumnError('a list such as ["Audio", "Counting"], or that list as a string')
    return value[0], value[1]


def options(value: Any) -> tuple[str, ...]:
    """Accept answer candidates: a list of strings or numbers, or such a list written as a string."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as err:
            raise ColumnError("a list of candidate answers") from err
    if not isinstance(value, list) or len(value) < 2:
        raise ColumnError("a list of at least two candidate answers")
    return tuple(word(v) for v in value)


def options_text(value: Any) -> str:
    """Return the candidates as the released prompt prints them: Python's ``str`` of the JSON value."""
    return str(value)


def required(*keys: str) -> tuple[Column, ...]:
    """Return columns that have to be there and are not used."""
    return tuple(Column(key, anything) for key in keys)


def keys_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the distinct keys that some columns read, in order."""
    return tuple(dict.fromkeys(column.key for column in columns))
