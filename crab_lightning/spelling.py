"""Parts of messages: a suggestion for an unknown name, and a number with its noun."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'NAME'?)`` for a message about an unknown name, or an empty text.

    Args:
        name: The unknown name.
        known: The names that exist.

    Example:
        >>> did_you_mean("lable", ["label", "path"])
        " (did you mean 'label'?)"
    """
    near = get_close_matches(str(name), dict.fromkeys(map(str, known)), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 file`` or ``1,200 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
