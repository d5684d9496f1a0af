"""Trainers that print and keep nothing by themselves, and adapters that change something."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

AnyModule = TypeVar("AnyModule", bound=LightningModule)


def quiet_trainer(root: Path | None = None, *, run: Path | None = None, **options: Any) -> Trainer:
    """Return a Trainer on the CPU.

    Args:
        root: Its default folder.
        run: Run folder in which TensorBoard logs; no logger when left out.
        options: Further arguments of the Trainer; they win.
    """
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": root,
        "logger": False if run is None else TensorBoardLogger(run.parent, name="", version=run.name),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(quiet | options))


def with_trained_adapters(module: AnyModule, std: float = 0.2) -> AnyModule:
    """Draw the B matrices of a module, which are zero at first, so that its adapters change something."""
    for name, parameter in module.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=std)
    return module
