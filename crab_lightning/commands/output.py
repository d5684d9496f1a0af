"""Output on the screen: streams that do not end a run, a filter of useless messages, and a progress bar."""

from __future__ import annotations

import errno
import io
import logging
import re
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import TaskID

# Errors of a stream whose reader has ended, or of a log on a full disk. They must not end a run.
_LOST = (
    errno.EPIPE,
    errno.EIO,
    errno.ENOSPC,
    errno.EFBIG,
    *((errno.EDQUOT,) if hasattr(errno, "EDQUOT") else ()),
)


class _Lasting(io.FileIO):
    """An output stream that drops data when its reader has ended or its disk is full."""

    lost: OSError | None = None
    """The error of the first data that were dropped, unless the reader had ended."""

    def write(self, data: Any) -> int:
        """Write the data, or drop them after ``| head``, a lost connection or on a full disk."""
        try:
            return super().write(data) or 0
        except OSError as err:
            if err.errno not in _LOST:
                raise
            if err.errno != errno.EPIPE and self.lost is None:
                self.lost = err
            return len(data)


def keep_output_open() -> None:
    """Make stdout and stderr raise no error when they cannot be written; escape what the encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # a stream of a test or a notebook
        raw = _Lasting(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering or name == "stderr",
        )
        setattr(sys, name, lasting)


def lost_output() -> OSError | None:
    """Return the error that kept a part of stdout from being written; ``None`` if nothing was lost."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Lasting) else None


# Messages that Lightning prints at every start and that do not help the user, each with the reason.
_NOISE = re.compile(
    "|".join(
        [
            r".*litlogger",  # an advertisement
            r"TPU available",
            r"`isinstance\(treespec",  # Lightning's own deprecation, at every batch transfer
            r"Found \d+ module\(s\) in eval mode",  # the frozen base is meant to be in it
            r"The number of training batches .* is smaller than the logging interval",
            r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # values are already synchronised
            r"Trainer already configured with model summary",
            r"Total length of `BatchLoader` across ranks is zero",  # the mixture table says so
            r"Loading `train_dataloader` to estimate",
        ]
    )
)


def quieten() -> None:
    """Hide messages that Lightning prints at every start and that do not help the user."""
    warnings.filterwarnings("ignore", message=_NOISE.pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: _NOISE.match(record.getMessage()) is None)
    threading.excepthook = _tell_of_thread


def _tell_of_thread(ended: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, except an OSError of TensorBoard, which its next write raises again."""
    if type(ended.thread).__name__ != "_AsyncWriterThread" or not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


class StepBar:
    """A progress bar for each step. It shows nothing if the output is not a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        # The bar is drawn by calls only: workers are forked, and a fork must not copy a thread that holds a
        # lock.
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
        """Show that ``done`` of ``total`` parts of a step are finished."""
        if step not in self._steps:
            self._steps[step] = self._bar.add_task(step, total=total)
        self._bar.update(self._steps[step], completed=done, total=total)
        if done == total or time.monotonic() >= self._next:
            self._bar.refresh()
            self._next = time.monotonic() + 0.1
