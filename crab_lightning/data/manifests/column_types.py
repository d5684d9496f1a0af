"""The types of the columns of a manifest, and how a value becomes a field of a sample.

A reader gets the value in the file and returns the value of the field, or raises :class:`ColumnError`, which
says what is allowed. The manifest reader adds the file, the row and the key to the message.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from crab_lightning.tasks.answers import read_choice

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
# Larger numbers overflow in tensors; no frame number, pixel or time is so large.
_LARGEST = 10**9
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_CLOCK = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-5]?[0-9](?:\.[0-9]{1,15})?)")
_DRIVE = re.compile(r"[A-Za-z]:")
_SEPARATORS = re.compile(r"[/\\]")


class ManifestError(ValueError):
    """A manifest cannot be read. The message names the file, the row, the key and what to do."""


class RowError(ManifestError):
    """A row of a manifest cannot be read.

    Args:
        row: Number of the row, counted from 0.
        message: The whole message.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[type[RowError], tuple[int, str]]:
        # Pickle, which sends exceptions between processes, would call __init__ with the message only.
        return type(self), (self.row, str(self))


class ColumnError(ValueError):
    """A value is not allowed in a column.

    Args:
        wanted: The allowed values, as the end of the sentence "expected ...".
        what: The part of the row that is wrong, such as ``key 'event'``, which the column map fills in.
        found: What was found, such as ``is 3``.
        remedy: What to do about it.
    """

    def __init__(
        self,
        wanted: str,
        what: str = "the row",
        found: str = "cannot be read",
        remedy: str = "Correct the row or remove it.",
    ) -> None:
        super().__init__(wanted)
        self.wanted, self.what, self.found, self.remedy = wanted, what, found, remedy


ABSENT = object()
"""What :func:`value_at` returns where a row has no such key."""


def value_at(row: Mapping[str, Any], key: str) -> Any:
    """Return a value of a row, also one inside another (``segment.0.start``); ``ABSENT`` without it."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return value


def show(value: Any) -> str:
    """Return a value as text for a message, with at most 80 characters."""
    try:
        shown = json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:
        return f"{kind_of(value)} nested too deeply to show"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def read_as(reader: Callable[[Any], Any], value: Any, key: str) -> Any:
    """Return the result of a reader for the value of a key.

    Raises:
        ColumnError: If the value cannot be read. The error names the key and the value.
    """
    try:
        return reader(value)
    except ColumnError as err:
        raise ColumnError(err.wanted, f"key {key!r}", f"is {show(value)}", err.remedy) from None
    except RecursionError:
        raise ColumnError("a plain value", f"key {key!r}", "is nested too deeply") from None


def kind_of(value: Any) -> str:
    """Return the name of the type of a JSON value for a message."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


def anything(value: Any) -> Any:
    """Accept any JSON value, also an empty one."""
    return value


def annotation(value: Any) -> str:
    """Accept any value as a text with events; ``None`` is a clip without events."""
    return "" if value is None else str(value)


def text(value: Any) -> str:
    """Accept a string that is not blank and can be written as UTF-8."""
    if not isinstance(value, str):
        raise ColumnError("a string")
    if not value or value.isspace():
        raise ColumnError("a string that is not empty")
    if not value.isascii() and not _encodes(value):
        raise ColumnError("a string without incomplete characters (half surrogate pairs)")
    return value


def word(value: Any) -> str:
    """Accept a string, or a number, which is returned as text; ``3.0`` and ``3`` give the same text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    return text(value)


def integer(value: Any) -> int:
    """Accept a whole number that is not negative: ``7``, ``"7"`` or ``7.0``.

    The released files contain integers. Files from a spreadsheet or from pandas contain the other two forms.
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
    """Accept a time that is not negative: seconds as a number or as a decimal text, or ``[h:]m:s``."""
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())):
        hours, minutes, rest = clock.groups()
        if hours is None or int(minutes) < 60:
            whole = 3600 * int(hours or 0) + 60 * int(minutes)
            value = whole + (float(rest) if "." in rest else int(rest))
    value = _as_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ColumnError("a time in seconds such as 3, or as minutes and seconds such as '0:03'")
    if not 0 <= value < math.inf:
        raise ColumnError("a time in seconds that is finite and not negative")
    if value > _LARGEST:
        raise ColumnError(f"a time in seconds up to {_LARGEST:,}")
    return value


def number(value: Any) -> int | float:
    """Accept a finite number, also as a decimal text."""
    value = _as_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ColumnError("a finite number such as 3 or -0.5")
    return value


def _as_number(value: Any) -> Any:
    """Return the number in a decimal text, and any other value unchanged."""
    if not (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        return value
    return int(value) if _INTEGER.fullmatch(value.strip()) else float(value)


def choice(value: Any) -> int:
    """Accept one of two candidates, such as ``1``, ``"1"``, ``"one"``, ``"first"`` or ``"video 1"``."""
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
    """Accept the question type of MUSIC-AVQA: a list ``[modality, type]``, also as a JSON string."""
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


def lower(value: Any) -> str:
    """Accept a string that is not blank, and return it in lower case."""
    return text(value).lower()


def option(value: Any) -> str | int:
    """Accept the answer to a multiple choice: an integer is an index from 0, any other value is a text."""
    return value if isinstance(value, int) and not isinstance(value, bool) else word(value)


def file_number(value: Any) -> int:
    """Accept the path of a file whose name is a whole number, and return this number."""
    stem = PurePosixPath(relative_path(value)).stem
    if not (stem.isascii() and stem.isdigit()):
        raise ColumnError("an image file named by its frame number, such as 'frames/3.jpg'")
    return int(stem)


def relative_path(value: Any) -> str:
    """Accept a relative path that stays inside its folder."""
    if not isinstance(value, str) or not value or value.isspace():
        raise ColumnError("a file path that is not empty")
    if "\0" in value or (not value.isascii() and not _encodes(value)):
        raise ColumnError("a file path without NUL or incomplete characters (half surrogate pairs)")
    if value[0] in "/\\" or _DRIVE.match(value):
        raise ColumnError("a path relative to the dataset folder, not an absolute one")
    if ".." in value and ".." in _SEPARATORS.split(value):
        raise ColumnError(
            "a path without '..', since media stay under data.root; link the file into it instead"
        )
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts:
        raise ColumnError("the path of a file")
    return "/".join(parts)


def target_text(value: Any) -> str:
    """Accept the target text, which must not be blank."""
    if not isinstance(value, str) or not value.strip():
        raise ColumnError("the text that the model learns to write")
    if not _encodes(value):
        raise ColumnError("a text without incomplete characters (half surrogate pairs)")
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


TYPES: dict[str, Callable[[Any], Any]] = {
    "any": anything,
    "annotation": annotation,
    "choice": choice,
    "corner": corner,
    "file_number": file_number,
    "integer": integer,
    "lower": lower,
    "number": number,
    "option": option,
    "options": options,
    "options_text": str,  # the candidates as the released prompt prints them
    "question_kind": question_kind,
    "seconds": seconds,
    "text": text,
    "word": word,
}
"""The types that a column map may name."""

FIELD_TYPES: dict[str, str] = {
    "annotation": "annotation",
    "answer": "word",
    "class_name": "text",
    "end_s": "seconds",
    "event": "text",
    "expression": "text",
    "frame": "integer",
    "match": "choice",
    "match_text": "word",
    "object": "text",
    "object_id": "integer",
    "options": "options",
    "options_text": "options_text",
    "question": "text",
    "question_id": "word",
    "question_type": "word",
    "start_s": "seconds",
    "subset": "text",
    "uid": "word",
    "video_id": "word",
}
"""The default types of fields in a column map; the default of other fields is ``any``."""
