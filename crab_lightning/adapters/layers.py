"""LoRA and interaction-aware LoRA (I-LoRA) around a frozen linear layer."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.function import Call, RouteSink, adapted_linear, low_rank_update


class LoRALinear(nn.Module):
    """A frozen linear layer plus a scaled low-rank update: ``y = x Wᵀ + b + alpha/r * drop(x) Aᵀ Bᵀ``.

    A starts Kaiming-uniform (a = sqrt 5) and B at zero, so a fresh layer computes what its base computes.
    Dropout follows torch's random state (``adapters.dropout``).

    Args:
        base: The layer to adapt; its parameters are frozen.
        config: Rank, alpha, dropout and dtype are read here.

    Shapes: input ``(..., h)`` to output ``(..., d)``; ``lora_A`` ``(r, h)``, ``lora_B`` ``(d, n*r)`` with
    head i in columns ``i*r`` to ``(i+1)*r`` (n = 1 here).

    Raises:
        TypeError: If ``base`` is not an ``nn.Linear``.

    Source: Hu et al., ICLR 2022 (arXiv:2106.09685).
    """

    lora_route: nn.Parameter | None
    head_scale: Tensor | None

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"an adapter wraps an nn.Linear, not {type(base).__name__}")
        self.base = base.requires_grad_(False)
        self.config = config
        self.in_features, self.out_features = base.in_features, base.out_features
        self.rank, self.heads = config.rank, self._heads(config)
        self.scaling = config.alpha / config.rank
        # Both are also set by record_routes and scale_heads, for as long as they are active.
        self.route_sinks: tuple[RouteSink, ...] = ()
        # A buffer, so that it follows the model to its device; not persistent, since it is no weight.
        scale = config.head_scale
        values = None if scale is None else torch.empty(len(scale), device=self.base.weight.device)
        self.register_buffer("head_scale", values, persistent=False)
        stack = self._stack(config)
        self.lora_A = self._parameter(*stack, self.rank, self.in_features)
        self.lora_B = self._parameter(*stack, self.out_features, self.heads * self.rank)
        self.register_parameter("lora_route", self._route(config))
        self.reset_parameters()

    @staticmethod
    def _heads(config: AdapterConfig) -> int:
        return 1

    @staticmethod
    def _stack(config: AdapterConfig) -> tuple[int, ...]:
        """Leading sizes of A and B, where a layer holds several LoRAs."""
        return ()

    def _route(self, config: AdapterConfig) -> nn.Parameter | None:
        return None

    def _parameter(self, *shape: int) -> nn.Parameter:
        dtype = getattr(torch, self.config.dtype)
        return nn.Parameter(torch.empty(*shape, dtype=dtype, device=self.base.weight.device))

    def reset_parameters(self) -> None:
        """Draw A and the router again and zero B, after which the layer computes what its base computes."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        if self.lora_route is not None:
            nn.init.kaiming_uniform_(self.lora_route, a=math.sqrt(5))
        if self.config.head_scale is not None and self.head_scale is not None:
            self.head_scale.copy_(torch.tensor(self.config.head_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus the update: ``(..., h)`` to ``(..., d)``.

        Raises:
            TypeError: If the input's type is not the base weight's, outside autocast.
        """
        return self._adapted(x, self.lora_A, self.lora_B, self.lora_route)

    def _adapted(self, x: Tensor, a: Tensor, b: Tensor, route: Tensor | None) -> Tensor:
        base = self.base
        autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
        call = Call(
            gain=self.scaling if self.head_scale is None else self.head_scale * self.scaling,
            dropout=self.config.dropout if self.training else 0.0,
            route_reads_x=self.config.router == "input",
            dtype=dtype,
            sink=partial(self._record, x.shape[:-1]) if self.route_sinks else None,
        )
        if type(base) is nn.Linear and not base._forward_hooks and not base._forward_pre_hooks:
            if not autocast and dtype != base.weight.dtype:
                raise TypeError(
                    f"the input is {dtype}, the base weight {base.weight.dtype}; cast one or run in autocast"
                )
            return adapted_linear(x, base.weight, base.bias, a, b, route, call)
        # A subclass (a quantised layer, say) computes its output in its own way.
        update = low_rank_update(x, a, b, route, call)
        out: Tensor = base(x)
        return out + update.to(out.dtype)

    def _record(self, leading: torch.Size, routes: Tensor) -> None:
        # Checkpointing runs the forward again inside backward; those tokens have been seen.
        if torch._C._current_graph_task_id() == -1:
            for sink in self.route_sinks:
                sink(routes.view(*leading, routes.shape[-1]))

    def extra_repr(self) -> str:
        """Return the sizes that the child modules' lines do not show."""
        return (
            f"rank={self.rank}, heads={self.heads}, scaling={self.scaling:g}, dropout={self.config.dropout:g}"
        )


class ILoRALinear(LoRALinear):
    """A frozen linear layer plus n low-rank heads that share A and are mixed token by token.

    With ``z = drop(x) Aᵀ`` and ``S = softmax(logits)`` in float32, the output is
    ``x Wᵀ + b + alpha/r * sum_i S_i * (z B_iᵀ)``. The logits are ``z Rᵀ`` with ``R`` ``(n, r)`` for the
    ``latent`` router, which so sees the dropped activation (there is no other), and ``x Rᵀ`` with ``R``
    ``(n, h)`` and x undropped for the ``input`` router.

    Args:
        base: The layer to adapt; its parameters are frozen.
        config: Rank, alpha, dropout, heads, router and dtype are read here.

    Shapes: as ``LoRALinear``, and ``lora_route`` ``(n, r)`` or ``(n, h)``.

    Raises:
        TypeError: If ``base`` is not an ``nn.Linear``.

    Source: equations 4 to 7 of arXiv:2603.04128; the ``input`` router is that of the released weights.
    """

    @staticmethod
    def _heads(config: AdapterConfig) -> int:
        return config.heads

    def _route(self, config: AdapterConfig) -> nn.Parameter | None:
        return self._parameter(config.heads, self.in_features if config.router == "input" else self.rank)
