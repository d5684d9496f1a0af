"""The callback that gives a run its folder, and says from which moment on the folder may change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class RunFolder(Callback):
    """Gives a run its folder, whether the run has one logger, several loggers or none.

    The trainer gets the loggers when all processes have the same folder and before a logger has written.
    ``on_begin`` is called on the first process after the first batch. An error before this moment (missing
    weights, a checkpoint that does not fit, a clip that cannot be read) changes nothing in the folder. Place
    this callback before all others.

    Args:
        folder: The run folder. All processes use the folder of the first process.
        loggers: Loggers of the run, which must not have been given to the trainer.
        on_begin: Called once, on the first process, before any file of an existing run is replaced.
    """

    def __init__(
        self,
        folder: Path | str,
        loggers: Sequence[Any] = (),
        on_begin: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.has_begun = False
        self._loggers = list(loggers)
        self._on_begin = on_begin

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the same folder to all processes and to the data module, and the loggers to the trainer."""
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "run_folder"):
            data.run_folder = self.folder
        if self._loggers:
            trainer.loggers, self._loggers = self._loggers, []

    def _begin(self, trainer: Trainer) -> None:
        if self.has_begun or trainer.sanity_checking:
            return
        self.has_begun = True
        if trainer.is_global_zero and self._on_begin is not None:
            self._on_begin(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Call ``on_begin`` after the first batch."""
        self._begin(trainer)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end


def folder_of(trainer: Any) -> Path:
    """Return the folder of the :class:`RunFolder` callback, or else the folder of the trainer's logger.

    Without this callback, every process must call this function, because the processes communicate.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, RunFolder):
            return callback.folder
    return Path(trainer.log_dir or trainer.default_root_dir)
