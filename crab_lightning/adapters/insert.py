"""Puts adapters around the linear layers that a config names, and around the experts of a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

import torch
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
    """The adapted layers of one target pattern and one shape.

    Args:
        pattern: The entry of ``target_modules`` that matched the layers.
        example: Dotted name of the first layer of the group.
        count: Number of layers.
        in_features: Inputs of each layer.
        out_features: Outputs of each layer.
        parameters: Adapter parameters of all layers together.
    """

    pattern: str
    example: str
    count: int
    in_features: int
    out_features: int
    parameters: int


@dataclass(frozen=True)
class AdapterReport:
    """The layers that were adapted, and the number of parameters that the adapters add.

    Args:
        config: The config of the adapters.
        groups: Adapted layers by pattern and shape.
        names: Dotted names of all adapted layers, in the model's order.
        base_parameters: Number of parameters of the model without adapters.
        batch: The object that tells the adapters about the batch that runs next.
    """

    config: AdapterConfig
    groups: tuple[AdaptedGroup, ...]
    names: tuple[str, ...]
    base_parameters: int
    batch: AnnouncedBatch

    @property
    def parameters(self) -> int:
        """Number of parameters of all adapters."""
        return sum(group.parameters for group in self.groups)

    def table(self) -> Table:
        """Return the groups as a rich table."""
        from rich.table import Table

        table = Table(title=str(self.config))
        table.add_column("target")
        table.add_column("first layer", overflow="fold")
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


def insert_adapters(
    model: nn.Module, config: AdapterConfig, *, root: nn.Module | None = None
) -> AdapterReport:
    """Freeze ``model`` and wrap its target layers with adapters, in place.

    Load the base weights before this call, because it renames the weight of an adapted layer to
    ``<name>.base.weight``.

    Args:
        model: The whole model; all its parameters are frozen, and dotted names start at this model.
        config: Kind, size and targets of the adapters.
        root: Part of ``model`` to search. When left out, ``config.within`` names the part.

    Returns:
        The layers that were adapted, and the number of parameters.

    Raises:
        ValueError: If a target matches no linear layer, ``within`` or ``root`` is not part of the model,
            ``expert_rank`` is given but there are no experts or they are laid out in another way, a
            multi-LoRA config names no tasks, or the model has adapters already.
    """
    if adapted := adapter_layers(model):
        raise ValueError(f"the model already has {len(adapted)} adapters (first: {next(iter(adapted))!r})")
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
        groups[key] = replace(group, count=group.count + 1, parameters=group.parameters + added)
        return layer

    for name, module in candidates.items():
        if isinstance(module, nn.Linear) and name in chosen:
            model.set_submodule(name, adapt(chosen[name], module, name))
        elif name in experts:
            products = {part: partial(adapt, f"experts.{part}", name=f"{name}.{part}") for part in WEIGHTS}
            model.set_submodule(name, AdaptedExperts(module, products))
    return AdapterReport(config, tuple(groups.values()), tuple(names), base_parameters, share_batch(model))


def _search_space(model: nn.Module, config: AdapterConfig, root: nn.Module | None) -> dict[str, nn.Module]:
    """Return the modules among which targets are searched, by their dotted name in ``model``."""
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
            f"Its parts: {parts}. Set within to the name of a module, or to null to search the whole model"
        )
    return inside


def _experts(candidates: dict[str, nn.Module], config: AdapterConfig) -> set[str]:
    """Return the names of the modules that hold experts; none if the config does not adapt experts."""
    if not isinstance(config, ExpertAdapterConfig) or config.expert_rank is None:
        return set()
    if found := {name for name, module in candidates.items() if are_experts(module)}:
        return found
    raise ValueError(
        f"adapter.expert_rank is {config.expert_rank}, but no experts were found in the part of the model"
        f" that is searched (adapter.within is {config.within!r}). Leave adapter.expert_rank out"
    )


def _matches(name: str, pattern: str) -> bool:
    # A pattern may use the name in the model or the name in adapter files.
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
            f". {pattern!r} is a part of {stacked[experts[0]]}.{experts[0]}, one parameter of three "
            "dimensions for all experts. Leave it out of adapter.target_modules; to adapt the experts, set "
            "adapter.expert_rank"
        )
    return message


def draw_adapters(model: nn.Module) -> None:
    """Give storage and first values to adapters around a base model without storage.

    Every process makes all adapters, which are small, and so they have the same values on every process.

    Raises:
        ValueError: If an adapter kind gives one of its parameters or buffers no first value, or needs the
            base weights for the first values.
    """
    for module in model.modules():
        if not isinstance(module, LoRALinear):
            continue
        made = []
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                empty = torch.full_like(parameter, math.nan, device="cpu")
                setattr(module, name, nn.Parameter(empty, parameter.requires_grad))
                made.append(name)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                fill = math.nan if buffer.is_floating_point() else 0
                setattr(module, name, torch.full_like(buffer, fill, device="cpu"))
                made.append(name)
        place = f"{type(module).__module__}.{type(module).__qualname__}.reset_parameters"
        try:
            module.reset_parameters()
        except NotImplementedError as err:  # torch raises it for a tensor without storage
            raise ValueError(
                f"{place} reads weights that a sharded model does not have yet ({err}). "
                "Let `update` read them"
            ) from err
        for name in made:
            if getattr(module, name).isnan().any():
                raise ValueError(
                    f"{place} gives {name} no value, so its first value would be random. Make it in"
                    " add_parameters, call super().reset_parameters() and set its first value"
                )
