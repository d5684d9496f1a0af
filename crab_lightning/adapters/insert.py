"""Put adapters around the linear layers that a configuration names, and on the experts."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from crab_lightning.adapters.batch import AnnouncedBatch, share_batch
from crab_lightning.adapters.config import AdapterConfig, ExpertAdapterConfig
from crab_lightning.adapters.experts import WEIGHTS, AdaptedExperts, are_experts
from crab_lightning.adapters.kinds import ADAPTERS
from crab_lightning.adapters.kinds.lora import LoRALinear, adapter_layers
from crab_lightning.adapters.names import portable_name

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class AdaptedGroup:
    """Layers of one target pattern and one shape.

    Args:
        pattern: The entry of ``target_modules`` that matched.
        example: Dotted name of the first of them.
        count: How many there are.
        in_features: Inputs of each.
        out_features: Outputs of each.
        parameters: Adapter parameters of all of them.
    """

    pattern: str
    example: str
    count: int
    in_features: int
    out_features: int
    parameters: int


@dataclass(frozen=True)
class AdapterReport:
    """What was adapted, where, and how many parameters that adds.

    Args:
        config: The configuration it followed.
        groups: Adapted layers by pattern and shape.
        names: Dotted names of all adapted layers, in the model's order.
        base_parameters: Parameters of the model without adapters.
        batch: Where the batch that runs next is announced to the adapters.
    """

    config: AdapterConfig
    groups: tuple[AdaptedGroup, ...]
    names: tuple[str, ...]
    base_parameters: int
    batch: AnnouncedBatch

    @property
    def parameters(self) -> int:
        """Number of adapter parameters."""
        return sum(group.parameters for group in self.groups)

    def table(self) -> Table:
        """Return the groups as a rich table."""
        from rich.table import Table

        table = Table(title=str(self.config))
        table.add_column("target")
        table.add_column("first layer")
        for heading in ("layers", "in", "out", "parameters"):
            table.add_column(heading, justify="right")
        for g in self.groups:
            numbers = (g.count, g.in_features, g.out_features, g.parameters)
            table.add_row(g.pattern, g.example, *(f"{number:,}" for number in numbers))
        table.add_section()
        share = self.parameters / max(self.base_parameters, 1)
        table.add_row(
            "all", f"{share:.2%} of the base", f"{len(self.names):,}", "", "", f"{self.parameters:,}"
        )
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=110, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()


def insert_adapters(
    model: nn.Module, config: AdapterConfig, *, root: nn.Module | None = None
) -> AdapterReport:
    """Freeze ``model`` and wrap its target layers with adapters, in place.

    Base weights must be loaded before: an adapted layer's weight is then called ``<name>.base.weight``.

    Args:
        model: The whole model; all its parameters are frozen, and names are counted from it.
        config: Kind, size and targets.
        root: Part of ``model`` to search; left out, ``config.within`` chooses it.

    Returns:
        What was adapted.

    Raises:
        ValueError: If a target matches no linear layer, ``within`` or ``root`` is not part of the model,
            ``expert_rank`` is given and there are no experts, or the model has adapters already.
    """
    if adapted := adapter_layers(model):
        raise ValueError(f"the model has {len(adapted)} adapters already, first {next(iter(adapted))!r}")
    candidates = _search_space(model, config, root)
    chosen: dict[str, str] = {}
    for pattern in config.target_modules:
        matches = [name for name in candidates if _matches(name, pattern)]
        linear = [name for name in matches if isinstance(candidates[name], nn.Linear)]
        if not linear:
            raise ValueError(_nothing_matches(pattern, candidates, matches))
        for name in linear:
            chosen.setdefault(name, pattern)

    experts = _experts(candidates, config)
    base_parameters = sum(p.numel() for p in model.parameters())
    model.requires_grad_(False)
    names: list[str] = []
    groups: dict[tuple[str, int, int], AdaptedGroup] = {}

    def adapt(pattern: str, linear: nn.Linear, name: str) -> LoRALinear:
        layer = ADAPTERS[config.kind](linear, config)
        layer.train(linear.training)
        names.append(name)
        added = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        key = (pattern, layer.in_features, layer.out_features)
        group = groups.get(key, AdaptedGroup(pattern, name, 0, *key[1:], 0))
        groups[key] = AdaptedGroup(
            group.pattern, group.example, group.count + 1, *key[1:], group.parameters + added
        )
        return layer

    for name, module in candidates.items():
        if isinstance(module, nn.Linear) and name in chosen:
            model.set_submodule(name, adapt(chosen[name], module, name))
        elif name in experts:
            products = {part: partial(adapt, f"experts.{part}", name=f"{name}.{part}") for part in WEIGHTS}
            model.set_submodule(name, AdaptedExperts(module, products))
    return AdapterReport(config, tuple(groups.values()), tuple(names), base_parameters, share_batch(model))


def _search_space(model: nn.Module, config: AdapterConfig, root: nn.Module | None) -> dict[str, nn.Module]:
    """Return the modules that targets are looked for in, by dotted name from ``model``."""
    modules = dict(model.named_modules())
    if root is not None:
        names = [name for name, module in modules.items() if module is root]
        if not names:
            raise ValueError(f"root ({type(root).__name__}) is not a part of {type(model).__name__}")
        prefix = names[0] + "." if names[0] else ""
        return {name: module for name, module in modules.items() if name and name.startswith(prefix)}
    if config.within is None:
        return {name: module for name, module in modules.items() if name}
    inside = {
        name: module
        for name, module in modules.items()
        if f".{config.within}." in f".{name.rpartition('.')[0]}."
    }
    if not inside:
        parts = ", ".join(name for name, _ in model.named_children()) or "none"
        raise ValueError(
            f"adapter.within is {config.within!r}; {type(model).__name__} has no module of that name. "
            f"Its parts: {parts}. Set within to one of its modules, or to null to search all of it"
        )
    return inside


def _experts(candidates: dict[str, nn.Module], config: AdapterConfig) -> set[str]:
    """Return the names of the modules that hold the experts of a layer, if experts are to be adapted."""
    if not isinstance(config, ExpertAdapterConfig) or config.expert_rank is None:
        return set()
    if found := {name for name, module in candidates.items() if are_experts(module)}:
        return found
    raise ValueError(
        f"adapter.expert_rank is {config.expert_rank}, and the model has no experts where adapters are"
        f" searched (adapter.within is {config.within!r}). Leave adapter.expert_rank out"
    )


def _matches(name: str, pattern: str) -> bool:
    # By both names, so that a layer of a saved adapter can be named as the file names it.
    return any(
        fnmatchcase(known, pattern) or fnmatchcase(known, f"*.{pattern}")
        for known in {name, portable_name(name)}
    )


def _nothing_matches(pattern: str, candidates: dict[str, nn.Module], matches: list[str]) -> str:
    ends = sorted({n.rpartition(".")[2] for n, m in candidates.items() if isinstance(m, nn.Linear)})
    message = f"adapter.target_modules: {pattern!r} matches no linear layer; "
    if matches:
        kind = type(candidates[matches[0]]).__name__
        message += f"it matches {len(matches)} other modules, such as {matches[0]!r} ({kind}); "
    message += f"linear layers here end with: {', '.join(ends) or 'none'}"
    stacked = {
        key: name
        for name, m in candidates.items()
        for key, p in m.named_parameters(recurse=False)
        if p.ndim == 3
    }
    stem = pattern.rpartition(".")[2].removesuffix("_proj")
    if experts := [key for key in stacked if stem in key.split("_")]:  # gate_proj is in gate_up_proj
        message += (
            f". {pattern!r} stands in {stacked[experts[0]]}.{experts[0]}, one parameter of three dimensions "
            "for all experts. Leave it out of adapter.target_modules; to adapt the experts, set "
            "adapter.expert_rank"
        )
    return message
