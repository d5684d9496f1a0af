"""How the small base model that the demo fine-tunes was made; nothing here is needed to use it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "pretrain_encoders": "encoders",
    "pretrain_towers": "towers",
    "pretrain_mini": "mini",
    "PretrainConfig": "mini",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"crab_lightning.pretrain has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f"crab_lightning.pretrain.{_HOMES[name]}"), name)
