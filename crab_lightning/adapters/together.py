"""Computes linear layers that read the same input together, where their adapters allow it; no gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crab_lightning.adapters.function import spread
from crab_lightning.adapters.kinds.lora import LoRALinear
from crab_lightning.compat import linear


def reads_tokens_alone(layer: nn.Module) -> bool:
    """Return whether a layer's output at a token depends only on this token, not on its row or batch."""
    if not isinstance(layer, LoRALinear):
        return isinstance(layer, nn.Linear)
    kind = type(layer)
    return kind.forward is LoRALinear.forward and kind.update is LoRALinear.update


class LinearGroup:
    """Linear layers with one input, such as the projections to queries, keys and values.

    Adapters of the kinds LoRA and I-LoRA share one product with all A matrices and one softmax over all
    routes. The group copies the matrices once, so the weights must not change afterwards. Layers with
    adapters of other kinds and quantised layers are called one by one.

    Args:
        layers: The k layers, in evaluation mode.
        dtype: Type of the input.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.layers = list(layers)
        self.adapted: list[LoRALinear] = []
        adapted: list[Any] = [layer for layer in layers if _is_plain(layer, dtype)]
        shapes = {(x.rank, x.heads, x.routed, x.route_reads_x) for x in adapted}
        if len(adapted) < len(self.layers) or len(shapes) != 1:
            return
        self.adapted = adapted
        self.rank, self.heads, routed, self.reads_x = shapes.pop()
        self.a = torch.cat([x.lora_A.detach().to(dtype) for x in adapted])
        self.b = [x.lora_B.detach().to(dtype).t() for x in adapted]
        self.routed = routed and self.heads > 1  # a softmax over one logit is 1
        self.gains = [1.0 if self.routed else float(x.gain) for x in adapted]
        if self.routed:
            self.route = torch.stack([x.lora_route.detach().to(dtype) for x in adapted])  # (k, n, r or h)
            self.wide = torch.promote_types(dtype, torch.float32)
            gains = [torch.as_tensor(x.gain, dtype=self.wide, device=self.a.device) for x in adapted]
            self.scale = torch.stack([g.expand(self.heads) for g in gains])[:, :, None]  # (k, n, 1)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of all layers, ``(..., d)`` each, for the input ``(..., h)``."""
        if not self.adapted:
            return [_one(layer, x) for layer in self.layers]
        tokens = x.reshape(-1, x.shape[-1])
        z = linear(tokens, self.a, None).view(len(tokens), len(self.adapted), self.rank)
        updates = self._spread(tokens, z) if self.routed else z.unbind(1)
        outputs = []
        for layer, update, b, gain in zip(self.adapted, updates, self.b, self.gains, strict=True):
            y = linear(x, layer.base.weight, layer.base.bias)
            y.view(-1, y.shape[-1]).addmm_(update, b, alpha=gain)
            outputs.append(y)
        return outputs

    def _spread(self, tokens: Tensor, z: Tensor) -> list[Tensor]:
        """Return the input of each B matrix, k tensors ``(L, n*r)``."""
        # All tokens of a head lie side by side: a softmax over n neighbouring values takes ten times as
        # long on a CPU.
        if self.reads_x:
            logits = (self.route.flatten(0, 1) @ tokens.t()).view(len(self.adapted), self.heads, -1)
        else:
            logits = torch.bmm(self.route, z.permute(1, 2, 0))
        routes = (torch.softmax(logits, 1, dtype=self.wide) * self.scale).to(z.dtype)
        return [spread(routes[k].t(), z[:, k]) for k in range(len(self.adapted))]


def _one(layer: nn.Module, x: Tensor) -> Tensor:
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias)
    out: Tensor = layer(x)
    return out


def _is_plain(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Return whether the layer is an unquantised linear layer of this type with a LoRA or I-LoRA adapter."""
    if not isinstance(layer, LoRALinear) or not reads_tokens_alone(layer) or layer.lora_A.dim() != 2:
        return False
    return type(layer.base) is nn.Linear and layer.base.weight.dtype == dtype
