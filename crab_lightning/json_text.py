"""Parses JSON that people have written, and says what is wrong with it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn


class NotJsonError(ValueError):
    """The syntax is not that of JSON, for example because the text was cut off."""


def parse_json(text: str | bytes) -> Any:
    """Parse strict JSON, without repeated keys, NaN and infinite numbers.

    Args:
        text: The whole text of one value.

    Raises:
        NotJsonError: If the syntax is wrong.
        ValueError: If a key is repeated, a number is not finite or has too many digits, or the text is nested
            too deeply. Both messages continue a sentence about the text and say what to do about the usual
            mistakes, for example ``is not JSON: Expecting value at line 2, column 1. JSON has no comments;
            remove it.``
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=_without_twins, parse_constant=_refuse_constant)
    except json.JSONDecodeError as err:
        place = f"{err.msg.removesuffix(' at')} at line {err.lineno}, column {err.colno}"
        raise NotJsonError(f"is not JSON: {place}. {_remedy(err)}".rstrip()) from err
    except _RefusedError:
        raise
    except UnicodeDecodeError as err:
        raise NotJsonError(f"is not UTF-8 text (byte {err.object[err.start]:#04x} at {err.start}).") from err
    except RecursionError as err:
        raise ValueError("is nested too deeply.") from err
    except ValueError as err:
        raise ValueError(f"is not JSON that can be read: {err}.") from err


class _RefusedError(ValueError):
    """The text is JSON for Python, but its meaning is not clear."""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twin = next(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
        begins = json.dumps(row, default=str)[:80]
        raise _RefusedError(f"has the key {twin!r} twice in one object ({begins}). Keep one of the two.")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"contains {name}, which is not JSON. Write a number.")


def _remedy(err: json.JSONDecodeError) -> str:
    """Return a sentence about a usual mistake, or an empty text."""
    before, rest = err.doc[: err.pos].rstrip(), err.doc[err.pos :].lstrip()
    if not rest:
        return "The text ends too early; it may have been cut off while copying."
    if err.msg == "Extra data":
        return "Another text follows the first complete value; only one value is allowed here."
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments; remove it."
    if rest[0] == "'":
        return "JSON writes texts in double quotes."
    if err.msg.startswith("Illegal trailing comma") or (rest[0] in "]}" and before.endswith(",")):
        return "Remove the comma before the bracket."
    if rest.startswith(("True", "False", "None")):
        return "JSON writes true, false and null."
    return ""
