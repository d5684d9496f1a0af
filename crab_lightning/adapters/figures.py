"""Figures of adapter weights, computed without a model: sizes, largest values, adapters without effect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crab_lightning.adapters.checkpoint import CONFIG_FILE, WEIGHTS_FILE, AdapterError
from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.names import portable_name

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one adapted layer.

    Args:
        name: Name of the layer in adapter files.
        rank: Number of rows of an A matrix.
        heads: Number of B matrices (of one expert, if the layer has experts), or number of tasks.
        router: ``input`` or ``latent``; ``None`` without a router.
        max_a: Largest absolute value in A.
        max_b: Largest absolute value in each B matrix, over all experts.
        max_route: Largest absolute value in the router; ``None`` without a router.
        max_own: Largest absolute value in each weight that only this adapter kind has, by name.
        parameters: Number of values in all weights of the layer.
    """

    name: str
    rank: int
    heads: int
    router: str | None
    max_a: float
    max_b: tuple[float, ...]
    max_route: float | None
    max_own: Mapping[str, float]
    parameters: int

    @property
    def tower(self) -> str:
        """Part of the model to which the layer belongs: ``audio``, ``visual`` or ``language``."""
        first = self.name.partition(".")[0]
        return {"audio_tower": "audio", "visual": "visual"}.get(first, "language")

    @property
    def dead(self) -> bool:
        """Whether every B matrix is zero, so that the adapter changes nothing."""
        return not any(self.max_b)

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(
            map(math.isfinite, (self.max_a, *self.max_b, self.max_route or 0.0, *self.max_own.values()))
        )


def layer_figures(name: str, parts: Mapping[str, Tensor], router: str | None = None) -> LayerFigures:
    """Return the figures of one layer.

    Args:
        name: Name of the layer.
        parts: Weights of the layer. The names end with ``lora_A`` ``(r, h)`` or ``(t, r, h)``, ``lora_B``
            ``(d, n*r)`` or ``(t, d, r)``, and ``lora_route`` if there is a router. Weights of experts have a
            first dimension E.
        router: ``input`` or ``latent``. When left out, the width of the router decides.
    """
    held = {key.rpartition(".")[2]: value for key, value in parts.items()}
    a, b, route = held["lora_A"], held["lora_B"], held.get("lora_route")
    own = {name: value for name, value in held.items() if name not in ("lora_A", "lora_B", "lora_route")}
    rank, inputs = a.shape[-2:]
    of_tasks = b.dim() == 3 and not _of_experts(name)
    matrices = list(b) if of_tasks else list(torch.split(b, rank, dim=-1))
    if route is None:
        router = None
    elif router is None:
        # Released weights have one rank everywhere, and it is smaller than the width of every layer.
        router = "input" if route.shape[-1] == inputs else "latent"
    return LayerFigures(
        name,
        rank,
        len(matrices),
        router,
        _largest(a),
        tuple(map(_largest, matrices)),
        None if route is None else _largest(route),
        {name: _largest(value) for name, value in own.items()},
        sum(value.numel() for value in held.values()),
    )


def folder_figures(state: Mapping[str, Tensor], config: AdapterConfig) -> tuple[LayerFigures, ...]:
    """Return the figures of every layer of an adapter folder.

    Args:
        state: Weights of the folder, as ``read_weights`` returns them.
        config: Config of the adapters in the folder.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        layers.setdefault(portable_name(name).rpartition(".")[0], {})[name] = value
    return tuple(layer_figures(name, parts, config.details().get("router")) for name, parts in layers.items())


def check_ranks(layers: Iterable[LayerFigures], config: AdapterConfig, folder: Path) -> None:
    """Check that the weights of a folder have the rank that its config file contains.

    Args:
        layers: The layers of the folder.
        config: Content of the config file.
        folder: The folder, for the message.

    Raises:
        AdapterError: If a layer has another rank.
    """
    for layer in layers:
        key = "rank"
        if _of_experts(layer.name) and config.details().get("expert_rank"):
            key = "expert_rank"
        if layer.rank != (said := getattr(config, key)):
            raise AdapterError(
                f"{folder / CONFIG_FILE}: adapter.{key} is {said}, and {layer.name} in {WEIGHTS_FILE} has the"
                f" rank {layer.rank}. The two files belong to different adapters; save or download both again"
            )


def _of_experts(name: str) -> bool:
    return name.rpartition(".")[0].endswith("experts")


def _largest(value: Tensor) -> float:
    # abs().max() would make a copy of the matrix.
    low, high = torch.aminmax(value)
    return max(-float(low), float(high)) if bool(low == low) else math.nan


def tower_figures(layers: Iterable[LayerFigures]) -> dict[str, dict[str, Any]]:
    """Return figures of the layers by tower, as values for JSON, in the order of each tower's first layer."""
    towers: dict[str, list[LayerFigures]] = {}
    for layer in layers:
        towers.setdefault(layer.tower, []).append(layer)
    return {
        tower: {
            "layers": len(held),
            "parameters": sum(layer.parameters for layer in held),
            "ranks": sorted({layer.rank for layer in held}),
            "routers": sorted({layer.router or "none" for layer in held}),
            "max_abs_a": max(layer.max_a for layer in held),
            "max_abs_b": max(max(layer.max_b) for layer in held),
            "max_abs_b_by_head": _by_head(held),
            "max_abs_own": _of_kind(held),
            "dead": [layer.name for layer in held if layer.dead],
            "not_finite": [layer.name for layer in held if not layer.finite],
        }
        for tower, held in towers.items()
    }


def _by_head(layers: list[LayerFigures]) -> list[float]:
    heads = max(layer.heads for layer in layers)
    return [max(layer.max_b[i] for layer in layers if layer.heads > i) for i in range(heads)]


def _of_kind(layers: list[LayerFigures]) -> dict[str, float]:
    names = dict.fromkeys(name for layer in layers for name in layer.max_own)
    return {name: max(layer.max_own.get(name, 0.0) for layer in layers) for name in names}


def figures_table(towers: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Return the figures by tower as a rich table."""
    from rich.table import Table

    ranks = sorted({rank for row in towers.values() for rank in row["ranks"]})
    routers = sorted({router for row in towers.values() for router in row["routers"]})
    title += f"\nrank {', '.join(map(str, ranks))}; router: {', '.join(routers)}"
    table = Table(title=title)
    table.add_column("tower")
    for heading in ("layers", "dead", "values", "max|A|", "max|B|", "by head"):
        table.add_column(heading, justify="right", overflow="fold" if heading == "by head" else "ellipsis")
    for tower, row in towers.items():
        table.add_row(
            tower,
            f"{row['layers']:,}",
            f"{len(row['dead']):,}",
            f"{row['parameters']:,}",
            f"{row['max_abs_a']:.3g}",
            f"{row['max_abs_b']:.3g}",
            " ".join(f"{value:.3g}" for value in row["max_abs_b_by_head"]),
        )
    layers, values = (sum(row[key] for row in towers.values()) for key in ("layers", "parameters"))
    dead = sum(len(row["dead"]) for row in towers.values())
    table.add_section()
    table.add_row("all", f"{layers:,}", f"{dead:,}", f"{values:,}")
    return table
