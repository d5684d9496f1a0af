"""Callbacks: the Evaluator, checkpoints of adapters, progress and training scalars."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.callbacks.checkpoint import RunCheckpoint
    from crab_lightning.callbacks.evaluator import Evaluator
    from crab_lightning.callbacks.mask_floor import SwappedAudioFloor
    from crab_lightning.callbacks.mask_sheets import MaskSheets
    from crab_lightning.callbacks.pictures import Pictures
    from crab_lightning.callbacks.progress import RunProgress
    from crab_lightning.callbacks.run_folder import find_checkpoint, find_run
    from crab_lightning.callbacks.scalars import TrainScalars

__all__ = [
    "Evaluator",
    "MaskSheets",
    "Pictures",
    "RunCheckpoint",
    "RunProgress",
    "SwappedAudioFloor",
    "TrainScalars",
    "find_checkpoint",
    "find_run",
]

# Most of them import lightning, which takes seconds.
_LAZY = {
    "Evaluator": "evaluator",
    "MaskSheets": "mask_sheets",
    "Pictures": "pictures",
    "RunCheckpoint": "checkpoint",
    "RunProgress": "progress",
    "SwappedAudioFloor": "mask_floor",
    "TrainScalars": "scalars",
    "find_checkpoint": "run_folder",
    "find_run": "run_folder",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
