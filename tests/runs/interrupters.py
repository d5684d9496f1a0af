"""Callbacks that end a run in the ways in which runs end."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch.callbacks import Callback


class SignalAt(Callback):
    """Sends this process a signal in the middle of a training step, or of a validation.

    Args:
        step: Optimizer steps done before.
        name: Name of the signal.
        in_validation: Send it in the first validation at or after that step.
    """

    def __init__(self, step: int, name: str, in_validation: bool = False) -> None:
        self.step, self.name, self.in_validation = step, name, in_validation

    def _send(self) -> None:
        os.kill(os.getpid(), getattr(signal, self.name))

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        if not self.in_validation and trainer.global_step == self.step:
            self._send()

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.in_validation and not trainer.sanity_checking and trainer.global_step >= self.step:
            self._send()


class StopAfter(Callback):
    """Asks the trainer to stop after a training batch, as ``max_time`` does.

    Args:
        batches: Batches done before, which may be within the accumulation of a step.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 >= self.batches:
            trainer.should_stop = True
