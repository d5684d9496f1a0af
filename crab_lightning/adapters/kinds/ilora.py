"""Interaction-aware LoRA (I-LoRA): heads that share one A; a router weights the heads for each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from crab_lightning.adapters.config import ExpertAdapterConfig, at_least_one
from crab_lightning.adapters.kinds.lora import LoRALinear

RouterInput = Literal["latent", "input"]


@dataclass
class ILoRAConfig(ExpertAdapterConfig):
    """routes every token over ``heads`` B matrices that share one A.

    Args:
        heads: Number n of B matrices.
        router: Input of the router: ``latent`` is the low-rank activation (equation 5 of the paper),
            ``input`` is the layer's own input, which the released weights need.
        head_scale: Factor of each head's contribution: ``[1, 0, 1]`` drops the second head. The routes are
            not normalised again. Saved adapters may be loaded with other factors than in training.
    """

    decisive = (*ExpertAdapterConfig.decisive, "heads", "router")

    kind: Literal["ilora"] = "ilora"
    heads: int = 3
    router: RouterInput = "latent"
    head_scale: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("heads", self.heads)
        if self.head_scale is None:
            return
        if len(self.head_scale) != self.heads or not all(map(math.isfinite, self.head_scale)):
            raise ValueError(
                f"adapter.head_scale is {self.head_scale!r}; adapter.heads is {self.heads}, so give "
                f"{self.heads} finite numbers"
            )


class ILoRALinear(LoRALinear):
    """A frozen linear layer plus n low-rank heads that share one A; a router weights them for each token.

    With ``z = drop(x) Aᵀ`` and ``S = softmax(logits)`` in float32, the output is
    ``x Wᵀ + b + alpha/r * sum_i S_i * (z B_iᵀ)``. For the ``latent`` router the logits are ``z Rᵀ`` with
    ``R`` ``(n, r)``, so the router reads z after dropout. For the ``input`` router they are ``x Rᵀ`` with
    ``R`` ``(n, h)``, and no dropout is applied to this x.

    Shapes: as ``LoRALinear``, and ``lora_route`` ``(n, r)`` or ``(n, h)``; around experts with a first
    dimension E.

    Source: equations 4 to 7 of arXiv:2603.04128; the ``input`` router is that of the released weights.
    """

    config_class = ILoRAConfig
    config: ILoRAConfig

    def _heads(self) -> int:
        return self.config.heads

    def _route(self) -> nn.Parameter | None:
        return self._parameter(self.heads, self.in_features if self.route_reads_x else self.rank)

    def _head_scale(self) -> Sequence[float] | None:
        return self.config.head_scale

    @property
    def route_reads_x(self) -> bool:
        """Whether the router reads the layer's input instead of the low-rank activation."""
        return self.config.router == "input"


LAYER = ILoRALinear
