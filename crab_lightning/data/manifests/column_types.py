"""What a column of a manifest may hold, and how its value becomes a field.

A reader takes the value of the file and returns the field's value; it raises :class:`ColumnError` with what
it would have accepted. The manifest reader adds file, row and key to the message.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from crab_lightning.tasks.answers import read_choice

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
# Larger ones overflow where they become tensors; no frame number, pixel or time is near.
_LARGEST = 10**9
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_CLOCK = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-5]?[0-9](?:\.[0-9]{1,15})?)")
_DRIVE = re.compile(r"[A-Za-z]:")
_SEPARATORS = re.compile(r"[/\\]")


class ColumnError(ValueError):
    """A value that a column cannot hold.

    Args:
        wanted: What the column can hold; ends the sentence "expected ...".
        what: What is wrong, such as ``key 'event'``; the column map fills it in.
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


def show(value: Any) -> str:
    """Return a value as it is shown in a message, cut to a line."""
    try:
        shown = json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:
        return f"{kind_of(value)} nested too deeply to show"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def read_as(reader: Callable[[Any], Any], value: Any, key: str) -> Any:
    """Return what a reader makes of the value under a key.

    Raises:
        ColumnError: If it cannot be read; the error names the key and the value.
    """
    try:
        return reader(value)
    except ColumnError as err:
        raise ColumnError(err.wanted, f"key {key!r}", f"is {show(value)}", err.remedy) from None
    except RecursionError:
        raise ColumnError("a plain value", f"key {key!r}", "is nested too deeply") from None


def kind_of(value: Any) -> str:
    """Return a JSON value's kind as it is shown in a message."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


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
    if not value.isascii() and not _encodes(value):
        raise ColumnError("a string without half surrogate pairs")
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
    """Accept a time that is not negative: seconds as a number or its decimal string, or ``[h:]m:s``."""
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
    """Accept a finite number, or its decimal string."""
    value = _as_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ColumnError("a finite number such as 3 or -0.5")
    return value


def _as_number(value: Any) -> Any:
    """Return the number that a decimal string is; any other value as it is."""
    if not (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        return value
    return int(value) if _INTEGER.fullmatch(value.strip()) else float(value)


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


def lower(value: Any) -> str:
    """Accept a string that is not blank, in lower case."""
    return text(value).lower()


def option(value: Any) -> str | int:
    """Accept the answer of a multiple choice: a JSON integer is a zero-based index, anything else is text."""
    return value if isinstance(value, int) and not isinstance(value, bool) else word(value)


def file_number(value: Any) -> int:
    """Accept a file that is named by a whole number, and return that number."""
    stem = PurePosixPath(relative_path(value)).stem
    if not (stem.isascii() and stem.isdigit()):
        raise ColumnError("an image file named by its frame number, such as 'frames/3.jpg'")
    return int(stem)


def relative_path(value: Any) -> str:
    """Accept a path that stays inside the folder it is relative to."""
    if not isinstance(value, str) or not value or value.isspace():
        raise ColumnError("a file path that is not empty")
    if "\0" in value or (not value.isascii() and not _encodes(value)):
        raise ColumnError("a file path without NUL or half surrogate pairs")
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
    """Accept the supervised text."""
    if not isinstance(value, str) or not value.strip():
        raise ColumnError("the text that the model learns to write")
    if not _encodes(value):
        raise ColumnError("a text without half surrogate pairs")
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
    "options_text": options_text,
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
"""The type of a field for which a column map names none; ``any`` for other fields."""
