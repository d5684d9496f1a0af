"""The progress bar of commands that work in steps."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID


class StepBar:
    """A progress bar for each step; nothing where the output is no terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        # Drawn by calls only: workers are forked, and a fork must not copy a thread that holds a lock.
        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            auto_refresh=False,
            disable=not sys.stdout.isatty(),
        )
        self._steps: dict[str, TaskID] = {}
        self._next = 0.0

    def __enter__(self) -> StepBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show how many parts of a step are done."""
        if step not in self._steps:
            self._steps[step] = self._bar.add_task(step, total=total)
        self._bar.update(self._steps[step], completed=done, total=total)
        if done == total or time.monotonic() >= self._next:
            self._bar.refresh()
            self._next = time.monotonic() + 0.1
