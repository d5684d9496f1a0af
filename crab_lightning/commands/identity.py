"""The settings that decide the answers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from crab_lightning.adapters.kinds import drop_foreign_keys
from crab_lightning.configuration.files import flat_keys

_SPEED_ONLY = {
    "batch_size",
    "batch_tokens",
    "eval_batch_size",
    "num_workers",
    "prefetch_batches",
    "cache",
    "cache_gb",
    "load_timeout_s",
}


def identity(config: Mapping[str, Any], adapter: Path | None) -> dict[str, Any]:
    """Return the model and data settings that decide the answers of a run; others only change the speed.

    Args:
        config: The whole config as plain values.
        adapter: Folder of the adapters that are loaded, if any.

    Returns:
        The value of each dotted key.
    """
    model = deepcopy(config["model"])
    drop_foreign_keys(model)
    data = {key: value for key, value in config["data"].items() if key not in _SPEED_ONLY}
    flat = {f"model.{k}": v for k, v in flat_keys(model)} | {f"data.{k}": v for k, v in flat_keys(data)}
    flat = {key: value for key, value in flat.items() if not key.endswith(".classes")}
    return flat | ({"adapter": str(adapter.resolve())} if adapter else {})
