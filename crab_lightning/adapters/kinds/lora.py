"""LoRA around a frozen linear layer; the layer classes of all other kinds are derived from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crab_lightning.adapters.batch import AnnouncedBatch
from crab_lightning.adapters.config import AdapterConfig, ExpertAdapterConfig
from crab_lightning.adapters.experts import ExpertLinear
from crab_lightning.adapters.function import Call, RouteSink, adapted_linear, low_rank_update, no_autocast
from crab_lightning.compat import recomputing


@dataclass
class LoRAConfig(ExpertAdapterConfig):
    """one A and one B matrix, without a router."""

    kind: Literal["lora"] = "lora"


class LoRALinear(nn.Module):
    """A frozen linear layer plus a scaled low-rank update: ``y = x Wᵀ + b + alpha/r * drop(x) Aᵀ Bᵀ``.

    A starts with Kaiming-uniform values (a = sqrt 5) and B with zeros, so a new layer gives the output of its
    base. Dropout uses torch's random state.

    Args:
        base: The layer to adapt; its parameters are frozen.
        config: Rank, alpha, dropout and dtype are read here; around experts also the rank of the experts.

    Shapes: input ``(..., h)`` to output ``(..., d)``; ``lora_A`` ``(r, h)``, ``lora_B`` ``(d, n*r)`` with
    head i in columns ``i*r`` to ``(i+1)*r`` (n = 1 here). Around an ``ExpertLinear`` every weight has a first
    dimension E, because each expert has its own update.

    Raises:
        TypeError: If ``base`` is not an ``nn.Linear``.
        ValueError: If the kind has a weight that would not be saved with the adapters.

    Source: Hu et al., ICLR 2022 (arXiv:2106.09685).
    """

    config_class: ClassVar[type[AdapterConfig]] = LoRAConfig
    stacks_b: ClassVar[bool] = False
    lora_route: nn.Parameter | None
    head_scale: Tensor | None
    batch: AnnouncedBatch

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"an adapter wraps an nn.Linear, not {type(base).__name__}")
        self.base = base.requires_grad_(False)
        self.config = config
        self.in_features, self.out_features = base.in_features, base.out_features
        self.experts = base.experts if isinstance(base, ExpertLinear) else 0
        self.rank, self.heads = config.rank, self._heads()
        if self.experts:
            assert isinstance(config, ExpertAdapterConfig)
            self.rank = config.expert_rank or config.rank
        self.scaling = config.alpha / config.rank
        self.batch = AnnouncedBatch()
        # record_routes sets route_sinks, and scale_heads sets head_scale, while their context is open.
        self.route_sinks: tuple[RouteSink, ...] = ()
        # A buffer moves to the model's device; it is not persistent, because it is not a weight.
        scale = self._head_scale()
        values = None if scale is None else torch.empty(len(scale), device=self.base.weight.device)
        self.register_buffer("head_scale", values, persistent=False)
        stack = self._stack()
        self.lora_A = self._parameter(*stack, self.rank, self.in_features)
        of_b = stack if self.stacks_b else ()
        self.lora_B = self._parameter(*of_b, self.out_features, self.heads * self.rank)
        self.register_parameter("lora_route", self._route())
        self.add_parameters()
        self._refuse_unsaved()
        self.reset_parameters()

    def _heads(self) -> int:
        return 1

    def _stack(self) -> tuple[int, ...]:
        """Leading dimensions of A in a layer that holds several LoRAs; of B if ``stacks_b``."""
        return ()

    def _route(self) -> nn.Parameter | None:
        return None

    def _head_scale(self) -> Sequence[float] | None:
        """Factor of each head; ``None`` if the config gives none."""
        return None

    @property
    def route_reads_x(self) -> bool:
        """Whether the router reads the layer's input instead of the low-rank activation."""
        return False

    @property
    def routed(self) -> bool:
        """Whether the layer weights several heads for each token; only such layers have routes."""
        return self.lora_route is not None

    def _parameter(self, *shape: int) -> nn.Parameter:
        dtype = getattr(torch, self.config.dtype)
        # A single number also gets one dimension, because sharding divides weights along the first one.
        shape = (self.experts, *shape) if self.experts else shape or (1,)
        return nn.Parameter(torch.empty(*shape, dtype=dtype, device=self.base.weight.device))

    def add_parameters(self) -> None:
        """Make further parameters of a kind with ``self._parameter(*shape)``; a kind overrides this method.

        The new parameters hold no values yet. The kind also overrides ``reset_parameters``, which is called
        next, and again when a sharded model gets its storage. ``self._parameter()`` makes a single number of
        the shape ``(1,)``.
        """

    def _refuse_unsaved(self) -> None:
        """Raise ``ValueError`` for weights that would not be saved, and so would be random after loading."""
        inner = [name for name, _ in self.named_parameters() if "." in name and not name.startswith("base.")]
        buffers = [name for name, _ in self.named_buffers(recurse=False) if name != "head_scale"]
        if lost := inner + [name for name in buffers if name in self.state_dict()]:
            raise ValueError(
                f"{type(self).__name__}.{lost[0]} would not be saved with the adapters, because it is a "
                "buffer or is in a module inside the layer. Make it in add_parameters with "
                "self._parameter, or register a buffer that can be computed again with persistent=False"
            )

    def reset_parameters(self) -> None:
        """Draw A and the router again and set B to zero, so that the layer gives the output of its base.

        A kind with further parameters calls this method and then sets their first values. These must not
        depend on the base weights, because a sharded model reads the base weights later.
        """
        for drawn in (self.lora_A, self.lora_route):
            if drawn is not None:
                for matrix in drawn.detach() if drawn.dim() == 3 else [drawn]:
                    nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        if (scale := self._head_scale()) is not None and self.head_scale is not None:
            self.head_scale.copy_(torch.tensor(scale))

    @property
    def gain(self) -> float | Tensor:
        """Scale of the update; a tensor ``(n,)`` if each head has its own factor."""
        return self.scaling if self.head_scale is None else self.head_scale * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus the update: ``(..., h)`` to ``(..., d)``.

        Raises:
            TypeError: If, outside autocast, the input has another type than the base weight.
        """
        if type(self).update is LoRALinear.update:
            return self._adapted(x, self.lora_A, self.lora_B, self.lora_route)
        out: Tensor = self.base(x)
        dtype = self._dtype(x)
        with no_autocast(x.device.type):
            return out + self.update(x.to(dtype)).to(out.dtype)

    def update(self, x: Tensor) -> Tensor:
        """Return the update, which is added to the base output; a kind with another update overrides this.

        Autograd computes the gradient of an overriding method. LoRA and I-LoRA do not use this method:
        ``adapted_linear`` computes their update.

        Args:
            x: ``(..., h)`` in the type in which the update is computed; autocast is off.

        Returns:
            ``(..., d)`` in the same type.

        Raises:
            NotImplementedError: In this class.
        """
        raise NotImplementedError

    def dropped(self, x: Tensor) -> Tensor:
        """Return the input; in training mode dropout is applied to it."""
        return F.dropout(x, self.config.dropout, self.training)

    def _dtype(self, x: Tensor) -> torch.dtype:
        """Return the type to compute in: the type of autocast if it is on, else the type of the input."""
        autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
        return torch.get_autocast_dtype(x.device.type) if autocast else x.dtype

    def _adapted(self, x: Tensor, a: Tensor, b: Tensor, route: Tensor | None) -> Tensor:
        base = self.base
        dtype = self._dtype(x)
        call = Call(
            gain=self.gain,
            dropout=self.config.dropout if self.training else 0.0,
            route_reads_x=self.route_reads_x,
            dtype=dtype,
            sink=partial(self._record, x.shape[:-1]) if self.route_sinks else None,
        )
        if type(base) is nn.Linear and not base._forward_hooks and not base._forward_pre_hooks:
            if dtype == x.dtype != base.weight.dtype and not torch.is_autocast_enabled(x.device.type):
                raise TypeError(
                    f"the input is {dtype}, but the base weight is {base.weight.dtype}; cast one of them or "
                    "use autocast"
                )
            return adapted_linear(x, base.weight, base.bias, a, b, route, call)
        # A subclass of nn.Linear, such as a quantised layer, computes its output in another way.
        product = base.product if isinstance(base, ExpertLinear) else F.linear
        update = low_rank_update(x, a, b, route, call, product)
        out: Tensor = base(x)
        return out + update.to(out.dtype)

    def record(self, routes: Tensor) -> None:
        """Pass the routes ``(..., n)`` of a call to every open ``record_routes``."""
        if self.route_sinks:
            self._record(routes.shape[:-1], routes)

    def _record(self, leading: torch.Size, routes: Tensor) -> None:
        # Gradient checkpointing runs forward again inside backward; these tokens were recorded before.
        if not recomputing():
            for sink in self.route_sinks:
                sink(routes.view(*leading, routes.shape[-1]))

    def extra_repr(self) -> str:
        """Return the sizes that the child modules' lines do not show."""
        return (
            f"rank={self.rank}, heads={self.heads}, scaling={self.scaling:g}, dropout={self.config.dropout:g}"
        )


LAYER = LoRALinear


def adapter_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Return the adapted layers of a model by their dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
