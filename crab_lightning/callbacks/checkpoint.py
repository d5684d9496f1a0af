"""Checkpoints of a run: when they are written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from crab_lightning.callbacks.run_folder import ADAPTER, ADAPTER_BEST, BEST, LAST


class RunCheckpoint(Checkpoint):
    """Keeps the last and the best state of a run, each as Lightning checkpoint and as adapter folder.

    ``checkpoints/last.ckpt`` and ``adapter/`` are written after every epoch, every ``every_n_steps`` steps,
    and when training ends, by itself or by Ctrl-C; ``checkpoints/best.ckpt`` and ``adapter/best/`` after a
    validation that improved the monitored value. Lightning's own ModelCheckpoint writes ``last.ckpt`` only
    together with a new best.

    Args:
        monitor: Logged value that decides what is best: any ``val/<task>/<dataset>/<metric>`` or a mean over
            datasets. ``null`` keeps no best.
        mode: Whether a higher (``max``) or lower (``min``) value is better.
        every_n_steps: Optimizer steps between two saves within an epoch, for long epochs.
    """

    def __init__(
        self,
        monitor: str | None = "val/mean/headline",
        mode: Literal["min", "max"] = "max",
        every_n_steps: int | None = None,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.best_model_path = ""
        self.resume_command = ""
        """Printed after an interruption, completed with the checkpoint's path; set by the command line."""
        self._folder = Path()
        self._saved_at = 0  # nothing to keep before the first step
        self._told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the last state when it is time within an epoch."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save_last(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state when the monitored value has improved."""
        if self.monitor is None or trainer.sanity_checking or not _may_save(trainer):
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            self._tell_missing(trainer)
            return
        score = float(value) if isinstance(value, Tensor) else value
        sign = 1 if self.mode == "max" else -1
        if self.best_score is None or sign * score > sign * self.best_score:
            self.best_score = score
            self.best_model_path = str(self._folder / BEST)
            trainer.save_checkpoint(self.best_model_path, weights_only=False)
            self._save_adapters(pl_module, self._folder / ADAPTER_BEST)

    def _tell_missing(self, trainer: Trainer) -> None:
        if not self._told:
            self._told = True
            known = (
                ", ".join(sorted(k for k in trainer.callback_metrics if k.startswith("val/"))) or "nothing"
            )
            rank_zero_info(
                f"No best checkpoint is kept: checkpoint.monitor is '{self.monitor}', logged are: {known}"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last state."""
        self._save_last(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last state, also when training stopped within an epoch."""
        self._save_last(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After Ctrl-C or a scheduler's SIGTERM, keep the last state and say how to go on."""
        if not isinstance(exception, (KeyboardInterrupt, SIGTERMException)):
            return
        if trainer.testing or trainer.state.fn == "test":
            rank_zero_info("Interrupted. The same command again goes on where this test stopped.")
        if not _may_save(trainer):
            return
        if trainer.global_step == 0:
            rank_zero_info("Interrupted before the first optimizer step: nothing to save.")
            return
        self._save_last(trainer, pl_module)
        path = self._folder / LAST
        command = (
            self.resume_command
            or f"python cli.py fit --config {shlex.quote(str(self._folder / 'config.yaml'))}"
        )
        rank_zero_info(
            f"Interrupted after step {trainer.global_step:,}; saved {path}. Resume with:\n\n"
            f"    {command} --ckpt_path {shlex.quote(str(path))}\n"
        )

    def _save_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _may_save(trainer) or trainer.global_step == self._saved_at:
            return
        trainer.save_checkpoint(self._folder / LAST, weights_only=False)
        self._save_adapters(pl_module, self._folder / ADAPTER)
        self._saved_at = trainer.global_step

    @staticmethod
    def _save_adapters(pl_module: LightningModule, folder: Path) -> None:
        # A model without adapters (full fine-tuning) has its weights in the Lightning checkpoint alone.
        if pl_module.saves_parts:
            pl_module.save_adapter(folder)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {
            "monitor": self.monitor,
            "best_score": self.best_score,
            "best_model_path": self.best_model_path,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; a best value of another monitor means nothing here."""
        if state_dict["monitor"] == self.monitor:
            self.best_score = state_dict["best_score"]
            self.best_model_path = state_dict["best_model_path"]


def _may_save(trainer: Trainer) -> bool:
    return not getattr(trainer, "fast_dev_run", False) and trainer.state.fn == "fit"
