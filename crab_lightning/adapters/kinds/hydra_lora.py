"""HydraLoRA: one A, several B matrices, and a router that reads the input and keeps the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from crab_lightning.adapters.config import AdapterConfig, at_least_one
from crab_lightning.adapters.kinds.lora import LoRALinear


@dataclass
class HydraLoRAConfig(AdapterConfig):
    """routes every token to the best ``top_k`` of ``heads`` B matrices by the layer's input.

    Args:
        heads: Number n of B matrices.
        top_k: Number of B matrices that a token uses. When left out, a token uses all of them, as in
            HydraLoRA.
        balance: Weight of the load-balance loss. The mean of this loss over the adapted layers is added to
            the loss of a training step.
    """

    decisive = ("kind", "rank", "alpha", "heads", "top_k")

    kind: Literal["hydra_lora"] = "hydra_lora"
    heads: int = 3
    top_k: int | None = None
    balance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("heads", self.heads)
        if self.top_k is not None:
            at_least_one("top_k", self.top_k, self.heads)
        if not math.isfinite(self.balance) or self.balance < 0:
            raise ValueError(f"adapter.balance is {self.balance!r}; it must be a finite number of at least 0")


class HydraLoRALinear(LoRALinear):
    """A frozen linear layer plus the k best of n low-rank heads that share one A.

    With ``z = drop(x) Aᵀ`` and ``P = softmax(x Rᵀ)`` in float32, let K be the k largest entries of a
    token's P and ``S_i = P_i / sum_{j in K} P_j`` for i in K, else 0. The output is
    ``x Wᵀ + b + alpha/r * sum_i S_i * (z B_iᵀ)``. The balance loss of a layer is
    ``n * sum_i f_i * mean(P_i)`` over the tokens that are not padding. f_i is the fraction of the
    ``k * tokens`` choices that chose head i. The loss is 1 when all heads are used equally often.

    Shapes: as ``LoRALinear``, and ``lora_route`` ``(n, h)``.

    Sources: Tian et al., NeurIPS 2024 (arXiv:2404.19245), for k = n; top-k weights of Shazeer et al., ICLR
    2017 (arXiv:1701.06538); balance loss of Fedus et al., JMLR 2022 (arXiv:2101.03961, equations 4 to 6), the
    counts divided by k.
    """

    config_class: ClassVar[type[AdapterConfig]] = HydraLoRAConfig
    config: HydraLoRAConfig

    def _heads(self) -> int:
        return self.config.heads

    def _route(self) -> nn.Parameter | None:
        return self._parameter(self.heads, self.in_features)

    def update(self, x: Tensor) -> Tensor:
        """Return the update ``(..., d)`` for ``x`` ``(..., h)``, in the type of x."""
        assert self.lora_route is not None
        z = self.latent(self.dropped(x))
        shares = torch.softmax((x @ self.lora_route.to(x.dtype).t()).float(), -1)
        kept = self.config.top_k or self.heads
        routes, chosen = shares, None
        if kept < self.heads:
            best = shares.topk(kept, -1).indices
            chosen = torch.zeros_like(shares).scatter(-1, best, 1.0)
            routes = shares * chosen
            routes = routes / routes.sum(-1, keepdim=True)
        if self.training and self.config.balance and torch.is_grad_enabled():
            self.batch.add_loss(self._balance(shares, torch.ones_like(shares) if chosen is None else chosen))
        self.record(routes.detach())
        heads = (routes * self.gain).to(x.dtype).unsqueeze(-1) * z
        return heads.flatten(-2) @ self.lora_B.to(x.dtype).t()

    def latent(self, x: Tensor) -> Tensor:
        """Return the input of the B matrices: ``(..., h)`` to ``(..., 1, r)``, the same for all of them."""
        return (x @ self.lora_A.to(x.dtype).t()).unsqueeze(-2)

    def _balance(self, shares: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted balance loss of this layer."""
        weight = torch.ones_like(shares[..., :1])
        if self.batch.knows_places:
            present = self.batch.places("hydra_lora").present
            if present.shape == shares.shape[:-1]:  # the tokens of an encoder are not those of the text
                weight = present[..., None].to(shares.dtype)
        dims = tuple(range(shares.dim() - 1))
        load = (chosen * weight).sum(dims)
        loss = self.heads * ((load / load.sum()) * ((shares * weight).sum(dims) / weight.sum())).sum()
        return loss * (self.config.balance / self.batch.layers)


LAYER = HydraLoRALinear
