"""Shows the progress of a run: a bar with loss and samples per second, or plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

_EVERY_S, _LOG_EVERY_S = 0.5, 15.0


class RunProgress(ProgressBar):
    """Shows the progress of a run, its loss and its samples per second.

    Reading the loss waits for the accelerator, and drawing takes time, so both happen only every half second.
    Without a terminal, a line is printed every 15 seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._total: float = 0
        self._done = 0
        self._seen = 0
        self._shown = 0
        self._began = 0.0
        self._next = 0.0
        self._loss: Tensor | None = None
        self._paused: tuple[str, float, int, int, float] = ("", 0, 0, 0, 0.0)

    def disable(self) -> None:
        """Stop showing progress; Lightning calls this on every process but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a text above the bar."""
        if self._bar is not None:
            self._bar.console.print(*args, **kwargs)
        else:
            print(*args, **kwargs)

    # One bar for an epoch of training, a validation or a test

    def _begin(self, label: str, total: float) -> None:
        if not self._enabled:
            return
        self._end()
        self._label, self._total = label, total
        self._done = self._seen = self._shown = 0
        self._began = time.perf_counter()
        if sys.stdout.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[state]}"), console=Console()
            )
            self._task = self._bar.add_task(label, total=total if math.isfinite(total) else None, state="")
            self._bar.start()
        self._next = self._began + (_EVERY_S if self._bar else _LOG_EVERY_S)

    def _step(self, samples: int) -> None:
        if not self._enabled:
            return
        self._done += 1
        self._seen += samples
        if time.perf_counter() >= self._next:
            self._show()

    def _show(self) -> None:
        now = time.perf_counter()
        self._shown = self._done
        state = f"{self._seen / max(now - self._began, 1e-9):.2f} samples/s"
        if self._loss is not None:
            state = f"loss {self._loss.item():.4f}  {state}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, state=state)
            self._next = now + _EVERY_S
        else:
            total = f"{self._total:,.0f}" if math.isfinite(self._total) else "?"
            print(f"{self._label}: {self._done:,}/{total}  {state}", flush=True)
            self._next = now + _LOG_EVERY_S

    def _end(self) -> None:
        if not self._enabled or not self._label:
            return
        if self._done != self._shown:
            self._show()
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._label, self._loss = None, None, "", None

    # Hooks

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar for this epoch."""
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        self._begin(f"epoch {trainer.current_epoch + 1}/{last}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step; the bar of an epoch that is resumed in its middle is started here."""
        if not self._label:
            self.on_train_epoch_start(trainer, pl_module)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._loss = loss if isinstance(loss, Tensor) else None  # read only when it is shown
        self._done = batch_idx  # not 0 at the first step of a resumed epoch
        self._step(len(batch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the bar."""
        self._end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar for this validation; the bar of the training continues afterwards."""
        self._paused = (self._label, self._total, self._done, self._seen, time.perf_counter() - self._began)
        self._begin("validate", sum(_finite(trainer.num_val_batches)))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Count a step."""
        self._step(len(batch))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the bar; if the validation ran within an epoch, continue the bar of the training."""
        self._end()
        label, total, done, seen, elapsed_s = self._paused
        if (
            label
            and trainer.state.fn == "fit"
            and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        ):
            self._begin(label, total)
            self._done, self._seen = done, seen
            self._began -= elapsed_s  # samples per second do not count the time of the validation

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar for the test."""
        self._begin("test", sum(_finite(trainer.num_test_batches)))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar for the prediction."""
        self._begin("predict", sum(_finite(trainer.num_predict_batches)))

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_end = on_predict_end = on_train_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finish the bar, so that the terminal is usable."""
        self._end()


def _finite(counts: list[int | float] | int | float) -> list[float]:
    return [float(c) for c in (counts if isinstance(counts, list) else [counts])]
