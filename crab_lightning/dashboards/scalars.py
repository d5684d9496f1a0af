"""Logs further scalars of the training: drawn mixture, padding, gradient norm, memory; and their layout."""

from __future__ import annotations

import re
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from crab_lightning.compat import datamodule_of, log_interval, set_log_interval
from crab_lightning.distributed.sharding import gradient_norm
from crab_lightning.runs.boards import log_scalar_layout
from crab_lightning.structures import Batch, DatasetSpec

Layout = dict[str, dict[str, list[Any]]]


class TrainScalars(Callback):
    """Logs the mixture, padding, gradient norm and memory every ``trainer.log_every_n_steps`` steps.

    The model itself logs losses, learning rate and speed. Between logged steps this callback only counts, so
    nothing waits for the accelerator. The values are those of the first process:

    - ``train/<task>/<dataset>/drawn`` and ``drawn_share``: number and fraction of samples drawn so far,
      including the time before a resume
    - ``train/padding_share``: fraction of the batches' positions that are padding
    - ``train/grad_norm``: norm of the gradient before clipping
    - ``train/memory_rss_gib``: memory of the process; ``train/memory_cuda_peak_gib``: largest GPU memory so
      far

    A layout for TensorBoard's Custom Scalars tab groups these values with the scores of the validation.
    """

    def __init__(self) -> None:
        self._drawn: Counter[str] = Counter()
        self._tokens: list[Tensor] = []
        self._slots = 0
        self._grad_norm: Tensor | None = None
        self._logged = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout; if the run is shorter than the log interval, log every step."""
        if trainer.estimated_stepping_batches - trainer.global_step < log_interval(trainer):
            set_log_interval(trainer, 1)
        data: Any = datamodule_of(trainer)
        if not trainer.is_global_zero or not hasattr(data, "datasets") or not hasattr(data, "tasks"):
            return
        headlines = {name: data.tasks[spec.task].headline(spec) for name, spec in data.datasets.items()}
        log_scalar_layout(trainer.loggers, scalar_layout(data.datasets, headlines))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Compute the gradient norm at steps that will be logged."""
        if trainer.loggers and (trainer.global_step + 1) % log_interval(trainer) == 0:
            grads = [
                p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            self._grad_norm = gradient_norm(grads, trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the samples and padding of a batch, and log every ``trainer.log_every_n_steps`` steps."""
        if not trainer.loggers:
            return
        self._drawn.update(f"{sample.task}/{sample.dataset}" for sample in batch.samples)
        mask = batch.inputs.get("attention_mask")
        if mask is not None:
            self._tokens.append(mask.sum())
            self._slots += mask.numel()
        step = trainer.global_step
        # With accumulation several batches have the same global_step, which is logged once.
        if step and step % log_interval(trainer) == 0 and step != self._logged:
            self._log(trainer, step)

    def _log(self, trainer: Trainer, step: int) -> None:
        total = self._drawn.total()
        values: dict[str, float] = {}
        for name, count in sorted(self._drawn.items()):
            values |= {f"train/{name}/drawn": count, f"train/{name}/drawn_share": count / total}
        if self._tokens:
            values["train/padding_share"] = 1 - float(torch.stack(self._tokens).sum()) / self._slots
        if self._grad_norm is not None:
            values["train/grad_norm"] = float(self._grad_norm)
        values["train/memory_rss_gib"] = resident_gib()
        if trainer.strategy.root_device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(trainer.strategy.root_device)
            values["train/memory_cuda_peak_gib"] = peak / 2**30
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        self._tokens.clear()
        self._slots, self._grad_norm, self._logged = 0, None, step

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of drawn samples, for the checkpoint."""
        return {"drawn": dict(self._drawn)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting from the numbers of a checkpoint."""
        self._drawn = Counter(state_dict["drawn"])


def resident_gib() -> float:
    """Return the memory of this process now in GiB; on some systems, the largest memory so far."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def scalar_layout(datasets: Mapping[str, DatasetSpec], headlines: Mapping[str, str | None]) -> Layout:
    """Return the layout of the Custom Scalars tab: first the whole run, then every dataset.

    Most charts have only one curve, because TensorBoard draws all curves of a run in the same colour.

    Args:
        datasets: Dataset -> entry.
        headlines: Dataset -> key of its primary metric; ``None`` if it has none.
    """

    def by_dataset(split: str, metric: str) -> dict[str, list[Any]]:
        return {name: _chart(f"{split}/{spec.task}/{name}/{metric}") for name, spec in datasets.items()}

    scored = {name: headline for name, headline in headlines.items() if headline}
    return {
        "Overview": {
            "loss, training": _chart("train/loss"),
            "loss, validation": _chart("val/loss"),
            "mean of the primary metrics": _chart("val/mean/headline"),
            "learning rate": _chart("train/lr"),
            "gradient norm before clipping": _chart("train/grad_norm"),
            "padding share": _chart("train/padding_share"),
            "tokens per second": _chart("train/tokens_per_s"),
            "samples per second": _chart("train/samples_per_s"),
            "memory, GiB": _chart("train/memory_rss_gib", "train/memory_cuda_peak_gib"),
        },
        "Primary metrics, validation": {
            f"{name}: {headline}": _chart(f"val/{datasets[name].task}/{name}/{headline}")
            for name, headline in scored.items()
        },
        "Loss, validation": by_dataset("val", "loss"),
        "Loss, training": by_dataset("train", "loss"),
        "Fraction of unreadable answers": by_dataset("val", "unparsed_rate"),
        "Mixture drawn, share of the samples": by_dataset("train", "drawn_share"),
    }


def _chart(*tags: str) -> list[Any]:
    """Return a chart of some tags, escaped because TensorBoard reads them as regular expressions."""
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
