"""The layer's definition written out for tests: one line a formula, a loop over heads, plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crab_lightning.adapters import ADAPTERS, AdapterConfig, LoRALinear


def stated(layer: LoRALinear, x: Tensor, keep: Tensor | None = None, keep_scale: float = 1.0) -> Tensor:
    """Return the output by definition; ``keep`` is the dropout mask, shaped as ``x``."""
    dropped = x if keep is None else x * keep.to(x.dtype) * keep_scale
    z = dropped @ layer.lora_A.T
    if layer.lora_route is None:
        routes = torch.ones(*x.shape[:-1], 1, dtype=x.dtype)
    else:
        router_input = x if layer.route_reads_x else z
        routes = torch.softmax(router_input @ layer.lora_route.T, -1)
    y = x @ layer.base.weight.T
    if layer.base.bias is not None:
        y = y + layer.base.bias
    for i, b in enumerate(layer.lora_B.split(layer.rank, dim=1)):
        y = y + routes[..., i : i + 1] * (z @ b.T) * (layer.config.alpha / layer.config.rank)
    return y


def make_layer(
    kind: str = "ilora",
    inputs: int = 10,
    outputs: int = 12,
    *,
    bias: bool = True,
    base_dtype: torch.dtype = torch.float32,
    **settings: object,
) -> LoRALinear:
    """Return a layer whose B matrices are not zero, so that every parameter has a gradient."""
    defaults: dict[str, object] = {"rank": 4, "alpha": 6.0, "heads": 3, "kind": kind}
    if kind == "lora":
        settings = {key: value for key, value in settings.items() if key not in ("heads", "router")}
    config = AdapterConfig(**(defaults | settings))
    layer = ADAPTERS[kind](nn.Linear(inputs, outputs, bias=bias, dtype=base_dtype), config)
    nn.init.normal_(layer.lora_B)
    return layer
