"""How the user has started the program, for messages that name it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

_CHECKOUT = "python cli.py"
_NAME = re.compile(r"(?<![\w/])(?:python )?cli\.py(?!\w)")


def as_typed() -> str:
    """Return ``crab-lightning``, ``python -m crab_lightning`` or ``python cli.py``, whichever was typed."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" and started.parent.name == "crab_lightning":
        return "python -m crab_lightning"
    if started.stem == "crab-lightning":
        return started.stem
    return f"python {shlex.quote(str(started))}" if started.name == "cli.py" else _CHECKOUT


def told(text: str) -> str:
    """Return a text with ``cli.py`` and ``python cli.py`` replaced by what the user typed."""
    typed = as_typed()
    return text if typed == _CHECKOUT else _NAME.sub(lambda _: typed, text)
