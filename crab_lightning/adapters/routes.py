"""Functions that record the routes of adapters while a model runs, and that scale or drop heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from crab_lightning.adapters.kinds.lora import LoRALinear, adapter_layers
from crab_lightning.adapters.names import unwrapped_name

RouteReducer = Callable[[str, Tensor], Tensor]


@contextmanager
def record_routes(model: nn.Module, reduce: RouteReducer | None = None) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the routes of every layer with a router while the context is open.

    Adapters on experts are left out: they read pairs of a token and an expert, not the tokens of a sequence.

    Args:
        model: The model with its adapters.
        reduce: Function ``(name, routes) -> tensor``; the returned tensor is kept, such as a mean over the
            tokens that are not padding. When left out, the routes of every token are kept.

    Yields:
        Routes by dotted name, one entry for each forward call, on the layer's device, without gradient:
        ``(..., n)`` for an input ``(..., h)``. The second forward pass of gradient checkpointing is not
        recorded.

    Raises:
        ValueError: If no layer has a router.
    """
    layers = {name: la for name, la in _routed_layers(model, "*").items() if not la.experts}
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, routes: Tensor) -> None:
        routes = routes.detach()
        found[name].append(routes if reduce is None else reduce(name, routes))

    sinks = {name: partial(keep, name) for name in layers}
    for name, layer in layers.items():
        layer.route_sinks += (sinks[name],)
    try:
        yield found
    finally:
        for name, layer in layers.items():
            layer.route_sinks = tuple(sink for sink in layer.route_sinks if sink is not sinks[name])


@contextmanager
def scale_heads(model: nn.Module, scale: Sequence[float], *, modules: str = "*") -> Iterator[None]:
    """Multiply the contribution of each head by a factor while the context is open.

    ``[1, 0, 1]`` drops the second head. The routes are not normalised again, so a factor of 0 has the same
    effect as a B matrix of zeros.

    Args:
        model: The model with its adapters.
        scale: One factor for each head.
        modules: Wildcard pattern over the layers' dotted names in ``model``.

    Raises:
        ValueError: If no layer with a router matches ``modules``, or a matching layer has another number of
            heads.
    """
    layers = _routed_layers(model, modules)
    for name, layer in layers.items():
        if layer.heads != len(scale):
            raise ValueError(f"{name} has {layer.heads} heads; scale has {len(scale)} values")
    before = {name: layer.head_scale for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.head_scale = torch.tensor(scale, dtype=torch.float32, device=layer.lora_A.device)
        yield
    finally:
        for name, layer in layers.items():
            layer.head_scale = before[name]


def _routed_layers(model: nn.Module, modules: str) -> dict[str, LoRALinear]:
    routed = {unwrapped_name(name): la for name, la in adapter_layers(model).items() if la.routed}
    layers = {name: layer for name, layer in routed.items() if fnmatchcase(name, modules)}
    if not layers:
        known = ", ".join(list(routed)[:3]) or "none"
        raise ValueError(f"no layer with a router matches {modules!r}; this model has: {known}")
    return layers
