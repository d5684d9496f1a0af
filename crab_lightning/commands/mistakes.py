"""What the command line says about a wrong key: its name, the closest one there is, and where to look."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

# Of a flag, of a section, and of a key inside a section.
_UNKNOWN = re.compile(
    r"unrecognized arguments: -*([^\s=]+)"
    r"|^Option '(.+?)' is not"
    r"|^Group '(\w+)' does not accept option '(.+?)'"
)
_UNKNOWN_OF_CLASS = re.compile(r"given class_path '(\S+)':\s+Option '(.+?)' is not accepted")


def explained(message: str, parser: Any) -> str:
    """Return what a user can act on in a parser's message; the message itself where no key is unknown.

    Args:
        message: Of jsonargparse, which lists every type that it has tried.
        parser: Knows the keys.
    """
    if found := _UNKNOWN_OF_CLASS.search(message):
        place, name = found.groups()
        module, _, kind = place.rpartition(".")
        accepted = list(inspect.signature(getattr(import_module(module), kind)).parameters)
        return f"{place} has no key '{name}'{_closest(name, accepted)}; it has: {', '.join(accepted)}"
    if found := _UNKNOWN.search(message):
        name = ".".join(part for part in found.groups() if part)
        known = list(parser.get_defaults().keys())
        return (
            f"there is no key '{name}'{_closest(name, known)}; `python {parser.prog} --help` lists the keys"
        )
    return f"{message}\n`python {parser.prog} --help` says what each key takes"


def _closest(name: str, known: Sequence[str]) -> str:
    """Suggest that key of another section, else the most similar key or section, if any is."""
    section, leaf = name.partition(".")[0], name.rpartition(".")[2]
    close = (
        [key for key in known if key.rpartition(".")[2] == leaf]
        or get_close_matches(name, known, 1)
        or get_close_matches(section, {key.partition(".")[0] for key in known}, 1)
    )
    return f" (did you mean '{close[0]}'?)" if close else ""
