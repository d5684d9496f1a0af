"""Adapters on the experts of a mixture-of-experts layer; one tensor holds the weights of all experts.

Symbols: E experts, k of them for each token; S pairs of a token and an expert (k times the tokens); h inputs;
d outputs. The pairs are sorted by expert once, and every product, frozen or low-rank, is one grouped product
over the sorted pairs. So the sum ``W + B A`` is never computed: on Qwen3-Omni-30B-A3B it would take 1.2 GB in
bfloat16 for each of 48 layers, in every pass, and as much again for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crab_lightning.compat import apply_gate, other_layout

WEIGHTS = ("gate_up_proj", "down_proj")
"""Names of the two weights of a layer's experts, in the order in which they are used."""

_ALIGNED = 8
"""Rows of a grouped product must be a multiple of 16 bytes long: 8 values of 2 bytes."""


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Multiply each group of rows with its own matrix.

    Args:
        x: ``(S, h)``, with the rows sorted by group.
        weight: ``(E, d, h)``, one matrix for each group.
        ends: int32 ``(E,)``; the number of the row after the last row of each group. The last entry is S.

    Returns:
        ``(S, d)``: for a row of group e, ``x @ weight[e].T``.
    """
    outputs, inputs = weight.shape[1:]
    wide, long = -inputs % _ALIGNED, -outputs % _ALIGNED
    if wide or long:  # a rank of 4, or a router of 3 rows
        x, weight = F.pad(x, (0, wide)), F.pad(weight, (0, wide, 0, long))
    if weight.requires_grad:
        # Some kernels do not write the gradient of a group without rows (pytorch issue 172439).
        used = ends.diff(prepend=ends.new_zeros(1)) > 0
        weight = weight.view_as(weight)
        weight.register_hook(lambda grad: torch.where(used[:, None, None], grad, 0))  # type: ignore[no-untyped-call]
    return F.grouped_mm(x, weight.transpose(-2, -1), offs=ends)[:, :outputs]


class ExpertLinear(nn.Linear):
    """A linear layer with a weight matrix for each expert.

    Args:
        weight: ``(E, d, h)``.

    Shapes: input ``(S, h)`` to output ``(S, d)``, with the rows sorted by expert; ``ends`` holds the limits.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        nn.Module.__init__(self)
        self.weight = weight
        self.register_parameter("bias", None)
        self.experts, self.out_features, self.in_features = weight.shape
        self.ends: Tensor | None = None
        """Number of the row after the last row of each expert; ``AdaptedExperts`` sets it before a call."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply the rows of each expert with the expert's slice of a weight ``(E, d, h)``."""
        assert self.ends is not None
        return grouped_linear(x, weight, self.ends)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(S, d)`` in the type of the weight; autocast does not change it, as in transformers."""
        return self.product(x.to(self.weight.dtype), self.weight)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"experts={self.experts}, in_features={self.in_features}, out_features={self.out_features}"


class AdaptedExperts(nn.Module):
    """The frozen experts of a layer, with a low-rank update for each of the two products of every expert.

    For expert e of a token x: ``gate, up = G_e x + update``, ``y = D_e (act(gate) * up) + update``; the
    outputs of a token's k experts are added with the weights of the model's router.

    Args:
        base: The module of transformers with the experts. Its weights move into the two adapted products.
        adapt: Name of a weight -> function that makes the adapter around the product with that weight.

    Shapes: tokens ``(T, h)``; chosen experts and the weights of the choice ``(T, k)``; output ``(T, h)``.

    Raises:
        ValueError: If the experts are computed in another way: they have biases, transposed or interleaved
            weights, or a norm of their own, or are not a module of transformers.
    """

    def __init__(self, base: nn.Module, adapt: Mapping[str, Callable[[ExpertLinear], nn.Module]]) -> None:
        super().__init__()
        if other := other_layout(base):
            raise ValueError(
                f"adapter.expert_rank is set, but the experts of this model ({type(base).__name__}) are laid"
                f" out in another way than those of Qwen3 ({', '.join(other)}). Leave adapter.expert_rank out"
            )
        experts: Any = base
        for name in WEIGHTS:
            product = ExpertLinear(getattr(experts, name)).train(base.training)
            setattr(self, name, adapt[name](product))
            delattr(experts, name)
        self.base = experts
        self.train(base.training)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the outputs of each token's experts, ``(T, h)``."""
        chosen, order = top_k_index.flatten().sort()
        gate_up, down = (getattr(self, name) for name in WEIGHTS)
        every = torch.arange(gate_up.base.experts, device=chosen.device)
        ends = torch.searchsorted(chosen, every, right=True).int()
        for adapted in (gate_up, down):
            adapted.base.ends = ends
        pairs = hidden_states[order // top_k_index.shape[-1]]
        pairs = down(apply_gate(self.base, gate_up(pairs)))
        pairs = pairs * top_k_weights.flatten()[order].unsqueeze(-1)
        pairs = pairs[order.argsort()].view(*top_k_index.shape, -1)
        out: Tensor = pairs.sum(1).to(hidden_states.dtype)
        return out

    def restored(self) -> nn.Module:
        """Return the original module of the experts, with its weights moved back."""
        for name in WEIGHTS:
            setattr(self.base, name, getattr(self, name).base.weight)
        experts: nn.Module = self.base
        return experts


def are_experts(module: nn.Module) -> bool:
    """Return whether a module holds the weights of a layer's experts."""
    found = [module._parameters.get(name) for name in WEIGHTS]
    return all(weight is not None and weight.ndim == 3 for weight in found)
