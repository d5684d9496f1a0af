"""Write the checkpoints of a run, and stop a run without losing a step."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from crab_lightning.compat import before_launcher_kills, callbacks_of, resume_by_epochs
from crab_lightning.data.loader import LoaderProcessError, TrainLoader
from crab_lightning.program import told
from crab_lightning.runs.checkpoint_files import CheckpointError, CheckpointFiles
from crab_lightning.runs.folder_callback import RunFolder, folder_of
from crab_lightning.runs.interruption import LOADER_LOST, REQUEUE, StopSignals, requeue
from crab_lightning.runs.random_state import random_states, set_random_state
from crab_lightning.runs.run_folder import ADAPTER, ADAPTER_BEST, BEST, LAST
from crab_lightning.spelling import did_you_mean

MEAN = "val/mean/headline"
_RANDOM = "crab_lightning_random"
_FREE_SPACE = "free space on that disk, or set run.root to another one, and resume"
# Parts of the messages of the communication libraries on the processes that are left when one has ended.
_PEER_LOST = (
    "connection closed",
    "connection reset",
    "broken pipe",
    "socket timeout",
    "timed out",
    "nccl",
    "gloo",
)


class RunCheckpoint(Checkpoint):
    """Saves the last and the best state of a run as checkpoints and adapters.

    ``checkpoints/last.ckpt`` and ``adapter/`` are written after every epoch, before every validation, every
    ``every_n_steps`` steps, and when training ends or is stopped by a signal. ``checkpoints/best.ckpt`` and
    ``adapter/best/`` are written after a validation that improved the monitored value. Lightning's own
    ModelCheckpoint writes ``last.ckpt`` only together with a new best checkpoint.

    A checkpoint always contains the state after a complete optimizer step. If the run gets Ctrl-C, SIGTERM or
    SIGHUP (or SIGUSR1 under SLURM, which also puts the job into the queue again), or if a process that loads
    data is killed, the present step is finished and saved, and the run ends and prints the command that
    continues it. A checkpoint contains the trained weights, the optimizer, the learning-rate schedule, the
    position in the data and the state of all random number generators, so that a resumed run gives the same
    result as an uninterrupted one.

    Args:
        monitor: Logged value that decides which state is best: any ``val/<task>/<dataset>/<metric>``, or a
            mean over datasets such as ``val/mean/headline``, the mean of the primary metrics. With ``null``
            no best state is kept.
        mode: Whether a higher (``max``) or a lower (``min``) value is better. By default, the metric
            decides; for losses, lower is better.
        every_n_steps: Number of optimizer steps between two saves within an epoch. This is the most that a
            power failure can lose.
    """

    def __init__(
        self,
        monitor: str | None = MEAN,
        mode: Literal["min", "max"] | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps is {every_n_steps}; it must be at least 1")
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.best_model_path = ""
        self._folder = Path()
        self._saved_at = 0  # there is nothing to save before the first step
        self._step = 0
        self._told = self._told_lost = False
        self._signals = StopSignals()
        self._loaded_random: list[Any] | None = None
        self._before_validation = False
        self._stop_postponed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder, and let :class:`CheckpointFiles` write and read the checkpoints."""
        self._folder = folder_of(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user has chosen
            trainer.strategy.checkpoint_io = CheckpointFiles()
        resume_by_epochs(trainer)
        before_launcher_kills(lambda: self._tell_of_lost_process(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random numbers of the checkpoint, and start to handle signals.

        Raises:
            CheckpointError: If the state of the optimizer does not belong to the trained weights, or if the
                first save of a new run would replace the checkpoint of another one.
        """
        # The commands move the files of an earlier run away, or refuse its folder, before they start.
        by_command = any(isinstance(callback, RunFolder) for callback in callbacks_of(trainer))
        last = self._folder / LAST
        if not by_command and trainer.ckpt_path is None and self._saved_at == 0 and last.is_file():
            raise CheckpointError(
                f"{last} was saved by another run, which this run would replace. Give the Trainer another "
                f'default_root_dir, or continue that run with fit(..., ckpt_path="{last}")'
            )
        self._step = self._saved_at = trainer.global_step
        for optimizer in trainer.optimizers:
            for weight, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != weight.shape:
                        raise CheckpointError(
                            f"the checkpoint's optimizer state {name} has shape {tuple(value.shape)} for a "
                            f"weight of shape {tuple(weight.shape)}: it was not written by this run. Resume "
                            "from another one"
                        )
        states, self._loaded_random = self._loaded_random, None
        if states is not None and len(states) == trainer.world_size:
            set_random_state(states[trainer.global_rank], pl_module.device)
        elif states is not None:
            rank_zero_info(
                f"The run had world size {len(states)} when the checkpoint was saved, and has "
                f"{trainer.world_size} now: dropout uses other random numbers than an uninterrupted run."
            )
        self._signals.install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last state if ``every_n_steps`` steps have passed, or if the run must stop."""
        step = trainer.global_step
        if step == self._step:  # a step with accumulated gradients is not complete and cannot be saved
            if trainer.should_stop:  # for example because of max_time; the run stops after this step
                trainer.should_stop, self._stop_postponed = False, True
            return
        self._step = step
        if self._stop_postponed:
            trainer.should_stop, self._stop_postponed = True, False
        if _lost_worker(trainer) is not None:
            self._signals.received = LOADER_LOST
        asked = self._signals.asked()
        # The hooks after an epoch's last step save it: here Lightning would count the validation as done.
        if trainer.is_last_batch:
            return
        if asked or (self.every_n_steps and step % self.every_n_steps == 0):
            self._save_last(trainer, pl_module)
        if asked:
            self._stop(trainer, asked)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state, so that a run that is killed in a validation only repeats the validation."""
        if trainer.sanity_checking or not _may_save(trainer):
            return
        self._saved_at = -1
        self._before_validation = True
        try:
            self._save_last(trainer, pl_module)
        finally:
            self._before_validation = False
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop if a signal was received; the state is already saved."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best state if the monitored value has improved."""
        if trainer.sanity_checking or not _may_save(trainer):
            return
        self._saved_at = -1  # the next save must contain the results of this validation
        if self.monitor is None:
            return
        key, sign = self._watched(trainer)
        value = trainer.callback_metrics.get(key)
        if value is None:
            self._tell_missing(trainer)
            return
        score = float(value) if isinstance(value, Tensor) else value
        if self.best_score is None or sign * score > sign * self.best_score:
            self.best_score = score
            self.best_model_path = str(self._folder / BEST)
            self._save(trainer, self._folder / BEST)
            self._save_adapters(trainer, pl_module, self._folder / ADAPTER_BEST)

    def _watched(self, trainer: Trainer) -> tuple[str, int]:
        """Return the key of the monitored value, and 1 if a higher value is better, else -1."""
        key = str(self.monitor)
        less: set[str] = set()
        for callback in callbacks_of(trainer):
            if key == MEAN and (other := getattr(callback, "stands_for_mean", None)) is not None:
                key = other
            less |= getattr(callback, "lower_is_better", set())
        if self.mode is not None:
            return key, 1 if self.mode == "max" else -1
        return key, -1 if key in less or key.endswith("loss") else 1

    def _tell_missing(self, trainer: Trainer) -> None:
        if not self._told:
            self._told = True
            known = (
                ", ".join(sorted(k for k in trainer.callback_metrics if k.startswith("val/"))) or "nothing"
            )
            near = "" if self.monitor == MEAN else did_you_mean(str(self.monitor), trainer.callback_metrics)
            rank_zero_info(
                f"No best checkpoint is kept: checkpoint.monitor is '{self.monitor}', which is not logged"
                f"{near}. These values are logged: {known}"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state."""
        self._save_last(trainer, pl_module)
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state, also if training stopped within an epoch."""
        self._save_last(trainer, pl_module)
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print how to continue. Nothing is saved here, because a step may be incomplete."""
        self._signals.restore()
        asked = isinstance(exception, (KeyboardInterrupt, SIGTERMException, LoaderProcessError))
        if trainer.testing or trainer.state.fn == "test":
            if asked:
                rank_zero_info("Interrupted. Start the same command again to continue this test.")
            return
        if not _may_save(trainer):
            return
        if asked:
            rank_zero_info(f"Interrupted after step {trainer.global_step:,}{self._how_to_go_on()}")
        elif trainer.world_size > 1 and any(word in str(exception).lower() for word in _PEER_LOST):
            # Printed by every process, since the first one may have ended.
            self._tell_of_lost_process(trainer)

    def _tell_of_lost_process(self, trainer: Trainer) -> None:
        if self._told_lost:
            return
        self._told_lost = True
        if trainer.state.fn == "fit":
            end = f", after step {trainer.global_step:,}{self._how_to_go_on()}"
        else:
            end = ". Start the same command again to continue."
        print(
            f"[rank {trainer.global_rank}] Another process of this run has ended or does not answer{end}",
            file=sys.stderr,
            flush=True,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the earlier signal handlers."""
        self._signals.restore()

    def _how_to_go_on(self) -> str:
        path = self._folder / LAST
        if not path.is_file():
            return "; nothing is saved yet."
        command = told(f"python cli.py fit --config {shlex.quote(str(self._folder / 'config.yaml'))}")
        saved = f"; {path} is of step {self._saved_at:,}." if self._saved_at > 0 else f"; there is {path}."
        return f"{saved} Resume with:\n\n    {command} --ckpt_path {shlex.quote(str(path))}\n"

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if (asked := self._signals.asked()) is not None:
            self._stop(trainer, asked)

    def _stop(self, trainer: Trainer, asked: signal.Signals) -> None:
        """End the run on every process, with the exception that Lightning raises for this signal."""
        if asked == REQUEUE and trainer.is_global_zero:
            requeue()
        if asked == LOADER_LOST:
            elsewhere = "a process that loads data for another process of this run was killed"
            raise LoaderProcessError(_lost_worker(trainer) or elsewhere)
        raise KeyboardInterrupt if asked == signal.SIGINT else SIGTERMException

    def _save_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _may_save(trainer) or trainer.global_step == self._saved_at or trainer.global_step == 0:
            return
        self._save(trainer, self._folder / LAST)
        self._save_adapters(trainer, pl_module, self._folder / ADAPTER)
        self._saved_at = trainer.global_step

    @staticmethod
    def _save(trainer: Trainer, path: Path) -> None:
        """Write a checkpoint. If this fails on the process that writes, stop all processes."""
        trainer.save_checkpoint(path, weights_only=False)
        files = trainer.strategy.checkpoint_io
        if isinstance(files, CheckpointFiles) and (error := trainer.strategy.broadcast(files.error)):
            raise CheckpointError(error)

    @staticmethod
    def _save_adapters(trainer: Trainer, pl_module: LightningModule, folder: Path) -> None:
        # Without adapters (full fine-tuning), the weights are only in the Lightning checkpoint.
        module: Any = pl_module
        if not module.saves_parts:
            return
        error = None
        try:
            module.save_adapter(folder)
        except OSError as err:  # only on the process that writes; the error is sent to the others
            error = f"the weights in {folder} could not be written ({err.strerror}); {_FREE_SPACE}"
        if error := trainer.strategy.broadcast(error):
            raise CheckpointError(error)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state of every process, and let Lightning resume at the step where this run stopped.

        A validation that was not finished is repeated, and an epoch that was not finished is continued.
        """
        checkpoint[_RANDOM] = random_states(pl_module.device)
        if trainer.state.fn == "fit" and not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            _reopen_epoch(checkpoint["loops"]["fit_loop"])
        if self._before_validation:
            # Lightning only repeats a validation in which a batch has begun and not ended, from the batch in
            # ``current``. Without this change it would skip the validation.
            begun = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            begun["total"].update(ready=1, started=1, processed=0, completed=0)
            begun["current"].update(ready=0, started=0, processed=0, completed=0)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the random state until training starts."""
        self._loaded_random = checkpoint.get(_RANDOM) if trainer.state.fn == "fit" else None

    def state_dict(self) -> dict[str, Any]:
        """Return the monitored value and the best score, which a resumed run needs."""
        return {
            "monitor": self.monitor,
            "best_score": self.best_score,
            "best_model_path": self.best_model_path,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, if it is that of the same monitored value."""
        if state_dict["monitor"] == self.monitor:
            self.best_score = state_dict["best_score"]
            self.best_model_path = state_dict["best_model_path"]


def _reopen_epoch(loops: dict[str, Any]) -> None:
    """Change the counts in a checkpoint so that an interrupted epoch is continued.

    If ``max_steps``, ``max_time`` or early stopping ends a run within an epoch, Lightning counts the epoch as
    finished, and a resumed run would skip the rest of the epoch. The counts are set to those at the end of a
    training batch, from which Lightning resumes within the epoch.
    """
    epoch, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    if epoch["current"]["processed"] < epoch["current"]["ready"]:
        return
    for counts in (epoch["total"], epoch["current"]):
        counts["processed"] = counts["completed"] = counts["ready"] - 1
    for counts in (batches["total"], batches["current"]):
        counts["completed"] = counts["processed"] - 1


def _lost_worker(trainer: Trainer) -> str | None:
    loader: Any = trainer.train_dataloader
    return loader.lost_worker() if isinstance(loader, TrainLoader) else None


def _may_save(trainer: Trainer) -> bool:
    return not getattr(trainer, "fast_dev_run", False) and trainer.state.fn == "fit"
