"""MoE-LoRA: several whole LoRAs as experts; a router chooses the best of them for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from crab_lightning.adapters.kinds.hydra_lora import HydraLoRAConfig, HydraLoRALinear


@dataclass
class MoELoRAConfig(HydraLoRAConfig):
    """routes every token to the best ``top_k`` of ``heads`` LoRAs, each with an A of its own."""

    kind: Literal["moe_lora"] = "moe_lora"  # type: ignore[assignment]


class MoELoRALinear(HydraLoRALinear):
    """A frozen linear layer plus the k best of n LoRAs.

    The routes S and the balance loss are those of ``HydraLoRALinear``; the output is
    ``x Wᵀ + b + alpha/r * sum_i S_i * (drop(x) A_iᵀ B_iᵀ)``.

    Shapes: as ``HydraLoRALinear``, but ``lora_A`` ``(n, r, h)``.

    Sources: the LoRAs as experts are those of Dou et al., ACL 2024 (arXiv:2312.09979), which has another
    balance loss; the top-k weights and the balance loss are those of ``HydraLoRALinear``.
    """

    config_class = MoELoRAConfig

    def _stack(self) -> tuple[int, ...]:
        return (self.heads,)

    def latent(self, x: Tensor) -> Tensor:
        """Return the input of each B matrix: ``(..., h)`` to ``(..., n, r)``."""
        together = x @ self.lora_A.to(x.dtype).flatten(0, 1).t()
        return together.view(*x.shape[:-1], self.heads, self.rank)


LAYER = MoELoRALinear
