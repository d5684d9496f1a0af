"""The run folder as the trainer's callbacks see it: where it is, and the moment from which it may change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class RunFolder(Callback):
    """Gives a run its folder, whichever loggers it has: one, several or none.

    The loggers are handed to the trainer once the folder is the same on every process, and before any of them
    has written. ``on_begin`` is called on the first process when the first batch has been worked on: what
    fails before (weights that are not there, a checkpoint that does not fit, a clip that cannot be read) has
    then changed nothing in the folder. Place this callback before all others.

    Args:
        folder: The run folder. The first process's holds on all of them.
        loggers: Loggers of the run, which must not have been given to the trainer.
        on_begin: Called once, on the first process, before anything of an existing run is replaced.
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
        """Agree on the folder, tell the data module, and hand over the loggers."""
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
        """Begin."""
        self._begin(trainer)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end


def folder_of(trainer: Any) -> Path:
    """Return the run folder: that of a :class:`RunFolder` callback, else where the trainer's logger writes.

    Without the callback this is a collective call; every process has to make it.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, RunFolder):
            return callback.folder
    return Path(trainer.log_dir or trainer.default_root_dir)
