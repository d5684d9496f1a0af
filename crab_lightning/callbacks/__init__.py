"""The names under which configs written before version 0.2 know the callbacks."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

_MOVED = {
    "Evaluator": "evaluation",
    "MaskSheets": "dashboards",
    "Pictures": "dashboards",
    "RunCheckpoint": "runs",
    "RunProgress": "dashboards",
    "SwappedAudioFloor": "evaluation",
    "TrainScalars": "dashboards",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = f"crab_lightning.{_MOVED[name]}"
    warnings.warn(f"crab_lightning.callbacks.{name} is now {new}.{name}", FutureWarning, stacklevel=2)
    return getattr(import_module(new), name)
