"""Computes hidden states without logits, and the next-token loss of only the target tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from crab_lightning.processing.base import IGNORED_LABEL

# The fp32 logits of a chunk take 0.6 GB with the published vocabulary of 152,064. Those of four samples with
# 2,000 positions each would take 4.9 GB.
CHUNK_TOKENS = 1024


def last_hidden_states(model: Any, **inputs: Any) -> Tensor:
    """Run a causal language model up to its head, and return the input of the head, ``(B, T, D)``.

    The head gets a tensor without positions, so no logits are computed. The model's own forward inserts the
    media; this works if the towers are inside ``model.model`` (transformers 5.23) or beside it (5.17).

    Args:
        model: A model with an ``lm_head``.
        inputs: Arguments of the model's forward.
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0])
        return (args[0][:, :0],)

    handle = model.lm_head.register_forward_pre_hook(keep)
    try:
        model(**inputs)
    finally:
        handle.remove()
    return seen[0]


def target_losses(
    hidden: Tensor, labels: Tensor, head: nn.Module, chunk_tokens: int = CHUNK_TOKENS
) -> tuple[Tensor, Tensor]:
    """Return the summed loss and the number of target tokens of each sample.

    Logits are computed only at positions that a target token follows, in chunks. If there is more than one
    chunk, they are computed again in the backward pass. The loss is computed in fp32.

    Args:
        hidden: Last hidden states ``(B, T, D)``.
        labels: ``(B, T)`` with -100 where nothing is learnt; position t is predicted from t - 1.
        head: Layer that maps hidden states to logits.
        chunk_tokens: Number of target tokens in a chunk.

    Returns:
        Loss sums, fp32 ``(B,)``, and token counts, int64 ``(B,)``.
    """
    following = labels[:, 1:]
    rows, places = (following != IGNORED_LABEL).nonzero(as_tuple=True)
    wanted = following[rows, places]
    states = hidden[rows, places]
    chunks = list(zip(torch.split(states, chunk_tokens), torch.split(wanted, chunk_tokens), strict=True))
    recompute = len(chunks) > 1 and torch.is_grad_enabled() and hidden.requires_grad
    losses = [
        checkpoint(_token_losses, head, s, w, use_reentrant=False) if recompute else _token_losses(head, s, w)
        for s, w in chunks
    ]
    sums = hidden.new_zeros(len(labels), dtype=torch.float32).index_add(0, rows, torch.cat(losses))
    counts = torch.bincount(rows, minlength=len(labels))
    return sums, counts


def _token_losses(head: nn.Module, states: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(head(states).float(), wanted, reduction="none")
