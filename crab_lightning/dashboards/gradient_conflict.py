"""Gradient conflict: measures whether the gradients of the datasets have the same direction."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor, nn

from crab_lightning.adapters import LoRALinear
from crab_lightning.adapters.names import depth_of, unwrapped_name
from crab_lightning.data.sampling.seeding import stable_hash
from crab_lightning.runs.folder_callback import folder_of
from crab_lightning.structures import Sample

FOLDER = "conflict"


@dataclass(frozen=True)
class Conflict:
    """Cosines between the adapter gradients of every two datasets, for the same weights.

    Args:
        step: Number of optimizer steps before the measurement.
        datasets: The D datasets.
        names: For each of P parts, the dotted name of its adapted layer.
        depths: For each part, the number of its layer; -1 if the name contains none.
        parts: For each part, ``A``, ``B1`` to ``Bn`` (the heads) or ``router``.
        cosines: ``(P, D, D)``, from -1 (opposite) to 1; NaN if a gradient is zero.
        norms: ``(P, D)``, norms of the gradients of the mean loss per target token.
    """

    step: int
    datasets: tuple[str, ...]
    names: tuple[str, ...]
    depths: NDArray[np.int64]
    parts: tuple[str, ...]
    cosines: NDArray[np.float64]
    norms: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write a ``.npz`` file with an array for each field; float64 is stored as float32."""
        path.parent.mkdir(parents=True, exist_ok=True)
        held: dict[str, Any] = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        half = {name: value.astype(np.float32) for name, value in held.items() if value.dtype == np.float64}
        np.savez_compressed(path, **(held | half))

    @classmethod
    def load(cls, path: Path) -> Conflict:
        """Return the content of a file that :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            read: dict[str, Any] = {"step": int(held["step"]), "depths": held["depths"]}
            read |= {name: tuple(map(str, held[name])) for name in ("datasets", "names", "parts")}
            return cls(**read, **{name: held[name].astype(np.float64) for name in ("cosines", "norms")})

    def mean(self, part: str = "*", depths: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return the mean cosine over some parts, ``(D, D)``; NaN if there is no value.

        Args:
            part: ``A``, ``B`` for all heads, ``B1``, ``router``, or ``*`` for all parts.
            depths: Numbers of the layers; all layers when left out.
        """
        kept = [
            (part == "*" or name == part or (part == "B" and name.startswith("B")))
            and (depths is None or int(depth) in depths)
            for name, depth in zip(self.parts, self.depths, strict=True)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")
            mean: NDArray[np.float64] = np.nanmean(self.cosines[np.array(kept, bool)], 0)
        return mean


class GradientConflict(Callback):
    """Measures how similar the gradients of every two datasets are, and does not change the training.

    For each dataset, this computes the gradient of the mean loss per target token over some fixed training
    samples, with the same weights and without dropout, for A, for every head's B and for the router of some
    layers. The cosines between datasets are written to ``conflict/step-<step>.npz`` of the run folder. Their
    mean and the fraction of negative cosines are logged as ``conflict/<part>/mean`` and
    ``conflict/<part>/negative_share``. The weights, their gradients, the optimizer and the random state are
    not changed. With fewer than two datasets nothing is measured.

    A measurement takes forward and backward passes over the samples of each dataset, and memory for one
    gradient of the chosen layers' adapters for each dataset. With DDP only the first process measures.

    Args:
        at_steps: Optimizer steps after which it measures; 0 is before the first step.
        every_n_steps: Also measure after every N steps.
        layers: Numbers of the layers that are measured; the first, the middle and the last when left out.
        samples: Number of training samples of each dataset.
        batch_size: Number of samples in one forward pass.
        seed: Seed of the choice of samples.

    Raises:
        ValueError: If a number is not valid.
    """

    def __init__(
        self,
        at_steps: list[int] | None = None,
        every_n_steps: int | None = None,
        layers: list[int] | None = None,
        samples: int = 8,
        batch_size: int = 4,
        seed: int = 0,
    ) -> None:
        if samples < 1 or batch_size < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise ValueError(
                f"samples is {samples}, batch_size is {batch_size}, every_n_steps is {every_n_steps}; each "
                "must be at least 1"
            )
        if any(step < 0 for step in at_steps or []):
            raise ValueError(f"at_steps is {at_steps}; a step must be at least 0")
        self.at_steps, self.every_n_steps = frozenset(at_steps or []), every_n_steps
        self.layers, self.samples, self.batch_size, self.seed = layers, samples, batch_size, seed
        self._folder = Path()
        self._seen = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder; every process does this, because it is a collective call."""
        self._folder = folder_of(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the first step, if ``at_steps`` contains 0.

        Raises:
            ValueError: If the weights are sharded over processes.
        """
        module: Any = pl_module
        if module._shards_weights():
            raise ValueError(
                "GradientConflict needs complete weights on each process, but this strategy shards them. "
                "Remove it from trainer.callbacks, or use trainer.strategy auto or ddp"
            )
        self._seen = trainer.global_step
        if trainer.global_step == 0 and 0 in self.at_steps:
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after the steps that the settings name, once for each step."""
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        if step in self.at_steps or (self.every_n_steps and step % self.every_n_steps == 0):
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained: Any = trainer
        data: Any = trained.datamodule
        names = [name for name in data.datasets if data.samples("train", name)]
        if not trainer.is_global_zero or len(names) < 2:
            return
        chosen = {name: self._chosen(data.samples("train", name)) for name in names}
        with _untouched(pl_module):
            found = measured(pl_module, data, chosen, self.layers, self.batch_size, trainer.global_step)
        found.save(self._folder / FOLDER / f"step-{trainer.global_step:06d}.npz")
        values: dict[str, float] = {}
        apart = ~np.eye(len(names), dtype=bool)
        for part in ("A", "B", "router"):
            cosines = found.mean(part)[apart]
            cosines = cosines[np.isfinite(cosines)]
            if len(cosines):
                values[f"conflict/{part}/mean"] = float(cosines.mean())
                values[f"conflict/{part}/negative_share"] = float((cosines < 0).mean())
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        said = ", ".join(
            f"{key.split('/')[1]} {v:+.3f}" for key, v in values.items() if key.endswith("/mean")
        )
        rank_zero_info(
            f"Gradient conflict after step {trainer.global_step:,}: mean cosine {said or 'unknown'}"
        )

    def _chosen(self, samples: Sequence[Sample]) -> list[Sample]:
        return sorted(samples, key=lambda s: stable_hash(self.seed, "conflict", s.id))[: self.samples]


def measured(
    module: Any,
    data: Any,
    samples: dict[str, list[Sample]],
    layers: Sequence[int] | None = None,
    batch_size: int = 4,
    step: int = 0,
) -> Conflict:
    """Return the cosines between the gradients of datasets, for the current weights of a model.

    The model should be in evaluation mode, so that there is no dropout.

    Args:
        module: An ``AVModule`` with adapters.
        data: The data module.
        samples: Dataset -> samples with targets.
        layers: Numbers of the layers that are measured; the first, the middle and the last when left out.
        batch_size: Number of samples in one forward pass.
        step: Value of ``step`` in the result.

    Raises:
        ValueError: If no adapter is in these layers.
    """
    chosen = _chosen_layers(module.model, layers)
    weights = [weight for _, layer in chosen for weight in _weights(layer)]
    rows: list[list[Tensor]] = []
    for dataset in samples:
        total = [torch.zeros_like(weight) for weight in weights]
        tokens_of_all = 0
        for start in range(0, len(samples[dataset]), batch_size):
            rows_of = data.dataset(samples[dataset][start : start + batch_size], with_target=True)
            batch = data.processor.collate([rows_of[i] for i in range(len(rows_of))]).to(module.device)
            with torch.enable_grad():
                module.announce(batch)
                loss, tokens = module.losses(batch)
                found = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
            tokens_of_all += int(tokens.sum())
            for held, grad in zip(total, found, strict=True):
                if grad is not None:
                    held += grad
        rows.append([held / max(tokens_of_all, 1) for held in total])
    return _compared(tuple(samples), chosen, rows, step)


def _compared(
    datasets: tuple[str, ...],
    chosen: Sequence[tuple[str, LoRALinear]],
    rows: Sequence[Sequence[Tensor]],
    step: int,
) -> Conflict:
    names, depths, parts, cosines, norms = [], [], [], [], []
    place = 0
    for name, layer in chosen:
        held = [row[place : place + len(_weights(layer))] for row in rows]
        place += len(_weights(layer))
        for part, vectors in _parts(layer, held):
            table = torch.stack([v.reshape(-1).double().cpu() for v in vectors])
            lengths = table.norm(dim=1)
            gram = table @ table.t()
            cosine = gram / (lengths[:, None] * lengths[None, :])
            names.append(name)
            depths.append(depth_of(name))
            parts.append(part)
            cosines.append(cosine.clamp(-1, 1).numpy())
            norms.append(lengths.numpy())
    return Conflict(
        step, datasets, tuple(names), np.array(depths), tuple(parts), np.stack(cosines), np.stack(norms)
    )


def _weights(layer: LoRALinear) -> list[nn.Parameter]:
    found = [layer.lora_A, layer.lora_B]
    return found if layer.lora_route is None else [*found, layer.lora_route]


def _parts(layer: LoRALinear, held: Sequence[Sequence[Tensor]]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield a layer's parts, each with the gradient of every dataset."""
    yield "A", [row[0] for row in held]
    # B matrices of heads are separate parts; those of tasks or experts are one part together.
    heads = [torch.split(row[1], layer.rank, dim=-1) for row in held]
    for head in range(layer.heads):
        yield f"B{head + 1}", [row[head] for row in heads]
    if layer.lora_route is not None:
        yield "router", [row[2] for row in held]


def _chosen_layers(model: nn.Module, layers: Sequence[int] | None) -> list[tuple[str, LoRALinear]]:
    adapted = [(unwrapped_name(n), m) for n, m in model.named_modules() if isinstance(m, LoRALinear)]
    depths = sorted({depth_of(name) for name, _ in adapted} - {-1})
    if layers is None:
        layers = [depths[0], depths[len(depths) // 2], depths[-1]] if depths else [-1]
    chosen = [(name, layer) for name, layer in adapted if depth_of(name) in layers]
    if not chosen:
        raise ValueError(f"no adapter is in layers {list(layers)}; layers with adapters: {depths or 'none'}")
    return chosen


@contextmanager
def _untouched(module: LightningModule) -> Iterator[None]:
    """Switch dropout off while the context is open; the random state and the mode are restored."""
    training = module.training
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        module.eval()
        try:
            yield
        finally:
            module.train(training)
