"""Options of Lightning's Trainer that this package refuses. Each error names options to use instead."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from crab_lightning.configuration.files import ConfigError
from crab_lightning.spelling import did_you_mean


def check_switches(trainer: Any, function: str = "fit") -> None:
    """Refuse options of the Trainer that do not work in this package.

    Args:
        trainer: The section ``trainer`` of a parsed config.
        function: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ConfigError: If such an option is set. The message names options to use instead.
    """
    for key in ("max_epochs", "max_steps", "limit_train_batches") if function == "fit" else ():
        if trainer.get(key) in (0, 0.0) and not isinstance(trainer.get(key), bool):
            raise ConfigError(f"trainer.{key} is 0, so nothing would be trained; give at least 1")
    named = {
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
        "accelerator": ["auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())],
        "profiler": ["simple", "advanced", "pytorch", "xla"],
    }
    for key, known in named.items():
        if isinstance(name := trainer.get(key), str) and name.lower() not in known:
            raise ConfigError(
                f"trainer.{key} is {name!r}{did_you_mean(name, known)}; it must be one of {', '.join(known)},"
                " or a mapping with a class_path"
            )
    if str(trainer.get("precision")) in ("bf16-true", "16-true", "64-true", "64"):
        raise ConfigError(
            f"trainer.precision {trainer.precision}: the model sets the type of its weights, and its"
            " adapters stay float32. Use --model.init_args.dtype bfloat16 with precision 32-true"
        )
    if trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator {trainer.accelerator}: torch finds no GPU on this machine. Use"
            " --trainer.accelerator auto, which takes the CPU here, or install a torch for your GPU"
        )
    if (how := _start_method(trainer.get("strategy"))) in ("spawn", "fork", "forkserver"):
        raise ConfigError(
            f"trainer.strategy starts its processes by {how}, as copies of this one, which do not own the run"
            " folder. Use --trainer.strategy ddp, which starts the same command once for each device"
        )
    if trainer.get("barebones"):
        raise ConfigError(
            "trainer.barebones true: a run writes logs and checkpoints, which this forbids. To measure"
            " speed, use --trainer.logger false --trainer.enable_checkpointing false"
            " --trainer.enable_progress_bar false --trainer.enable_model_summary false"
        )
    if trainer.get("overfit_batches"):
        raise ConfigError(
            f"trainer.overfit_batches {trainer.overfit_batches}: it is not supported, because the data module"
            " chooses the samples."
            " To overfit a few rows, use --data.datasets.NAME.limit N with --trainer.max_epochs"
        )


def _start_method(strategy: Any) -> str | None:
    """Return the method by which a strategy, given as a name or a class, starts its processes."""
    given: dict[str, Any]
    if isinstance(strategy, str):
        given = StrategyRegistry[strategy]["init_params"] if strategy in StrategyRegistry else {}
    else:
        given = (strategy or {}).get("init_args") or {}
    return given.get("start_method")
