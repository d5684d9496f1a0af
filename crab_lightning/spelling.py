"""What is suggested where a name is not known: the known one that is most like it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'NAME'?)``, to stand behind an unknown name, or nothing.

    Args:
        name: What was given.
        known: What there is.

    Example:
        >>> did_you_mean("lable", ["label", "path"])
        " (did you mean 'label'?)"
    """
    near = get_close_matches(str(name), dict.fromkeys(map(str, known)), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""
