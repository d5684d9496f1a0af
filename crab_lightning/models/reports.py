"""Tables printed before the first step."""

from __future__ import annotations

from rich.table import Table
from torch import nn

from crab_lightning.distributed.local_shards import whole_shape


def parameter_table(module: nn.Module) -> Table:
    """Return a table of parameters by part: how many, how many trained, in which types."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        parts.setdefault(".".join(name.split(".")[:-1][:3]), []).append(parameter)
    table = Table(title="Parameters")
    table.add_column("part")
    for column in ("parameters", "trained", "types"):
        table.add_column(column, justify="right")
    for part, held in parts.items():
        table.add_row(part, *_figures(held))
    table.add_section()
    table.add_row("all", *_figures([p for held in parts.values() for p in held]))
    return table


def _figures(parameters: list[nn.Parameter]) -> tuple[str, str, str]:
    total = sum(whole_shape(p).numel() for p in parameters)
    trained = sum(whole_shape(p).numel() for p in parameters if p.requires_grad)
    types = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    return f"{total:,}", f"{trained:,}", " ".join(types)
