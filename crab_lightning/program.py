"""The name under which the user started the program, output of tables, and a faster start."""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table without cutting a cell off, however narrow the terminal is.

    Columns with ``overflow="fold"`` take several lines if there is no room. The others keep their width, and
    a row that is longer than the terminal continues on its next line.

    Args:
        table: The table. Its width and the limits of its columns are set.
        console: Where it is printed. By default, on the standard output.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = console or Console()
    wide = console.options.update(width=1_000)
    for column in table.columns:
        column.no_wrap = column.overflow != "fold"
    beyond = Measurement.get(console, wide, table).maximum - console.width
    for column in table.columns:
        if beyond > 0 and column.overflow == "fold":
            cells = (column.header, *column.cells)
            whole = max(Measurement.get(console, wide, cell).maximum for cell in cells)
            column.max_width = max(12, whole - beyond)
    table.width = Measurement.get(console, wide, table).maximum
    console.print(table, crop=False, soft_wrap=False)


def is_first_process() -> bool:
    """Return whether this process writes output, as the launcher's variables say before processes connect."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "LOCAL_RANK"))
    first = next((rank for rank in ranks if rank is not None), "0")
    return first == "0" and os.environ.get("NODE_RANK", "0") == "0"


def warn_without_places() -> None:
    """Print the warnings of this package as ``warning: ...``, without the file and the line that gave them.

    Warnings of other packages stay as they are. Call this only in a process that runs a command.
    """
    here, usual = str(Path(__file__).parent), warnings.showwarning

    def show(message: Warning | str, category: Any, filename: str, *place: Any, **further: Any) -> None:
        if filename.startswith(here):
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, filename, *place, **further)

    warnings.showwarning = show


_START_OBJECTS = 1_500_000
"""Number of objects above that of a start: imports, parser and model of ``demo.yaml`` make 0.95 million."""
_THRESHOLDS = gc.get_threshold()


def start_quickly() -> None:
    """Delay Python's garbage collection until the program has started.

    Imports make objects that stay, and Python would look through all of them several times. Collection begins
    again at :func:`start_is_over`, or when 1.5 million objects have been made. Call this only in a process
    that runs a command.
    """
    gc.set_threshold(_START_OBJECTS)
    gc.callbacks.append(_search_begins)


def start_is_over() -> None:
    """Begin garbage collection again, except for the objects that the start has made.

    Nothing happens if garbage collection was not delayed.
    """
    if _search_begins in gc.callbacks:
        gc.callbacks.remove(_search_begins)
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)


def _search_begins(phase: str, info: dict[str, Any]) -> None:
    start_is_over()
