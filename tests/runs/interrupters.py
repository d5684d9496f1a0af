"""Callbacks that end a run in the ways in which runs end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor


class SignalAt(Callback):
    """Sends this process a signal in the middle of a training step, or of a validation.

    Args:
        step: Optimizer steps done before.
        name: Name of the signal.
        in_validation: Send it in the first validation at or after that step.
        rank: The process of several that sends it to itself; all of them when left out.
    """

    def __init__(self, step: int, name: str, in_validation: bool = False, rank: int | None = None) -> None:
        self.step, self.name, self.in_validation, self.rank = step, name, in_validation, rank

    def _send(self) -> None:
        os.kill(os.getpid(), getattr(signal, self.name))

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        mine = self.rank in (None, trainer.global_rank)
        if mine and not self.in_validation and trainer.global_step == self.step:
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


class KillLoaders(Callback):
    """Kills the processes that load data, as a full memory does, in the middle of a step or a validation.

    Args:
        step: Optimizer steps done before.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            for process in multiprocessing.active_children():
                os.kill(int(process.pid or 0), signal.SIGKILL)


class SpoilSound(Callback):
    """Makes the sound of a batch, and so its loss, not a number.

    Args:
        step: Optimizer steps done before.
        rank: The process whose batch it is.
    """

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            for value in batch.inputs.values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    value.fill_(float("nan"))
