"""A faster forward pass through the layers of a language model, only for answers.

The forward pass of transformers also serves training. This one gives the same results for prompts and for
single tokens, and leaves out the parts that answers do not need: padding, masks of prompts, and most of the
last layer. There, only the last position of a prompt is computed; the others need only keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from crab_lightning.adapters.together import LinearGroup, reads_tokens_alone
from crab_lightning.models.encoded_once import EncodedOnce, forward_as

READ_TOKENS = 4096
"""Number of prompt tokens that are read at once: enough for a GPU, with little memory."""

SHARED_TOKENS = 32
"""A prompt reuses keys and values of an earlier one if at least this many first tokens are the same."""

Past = list[tuple[Tensor, Tensor]]
"""For each layer the keys and values ``(T, H, D)`` of one prompt."""

_LAYERS = (
    "LlamaDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen2_5OmniDecoderLayer",
    "Qwen2_5_VLDecoderLayer",
)
"""Layer classes of transformers that compute the same as :class:`_Block`."""


class Slots(Protocol):
    """A cache of the keys and values of answers."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write keys and values ``(S, H, T, D)`` of a layer, and return those of all columns in use."""


def can_run(decoder: Any) -> bool:
    """Return whether :class:`DecoderPass` gives the same results as this decoder's own forward.

    It is False for other architectures, sliding windows, other attention than ``sdpa``, layers that a
    strategy has wrapped, and layers whose routes or outputs are recorded.
    """
    layers = getattr(decoder, "layers", None)
    if layers is None or not all(type(layer).__name__ in _LAYERS for layer in layers):
        return False
    if decoder.config._attn_implementation != "sdpa":
        return False
    windows = [getattr(layer.self_attn, "sliding_window", None) for layer in layers]
    watched = any(
        part._forward_hooks or part._forward_pre_hooks or getattr(part, "route_sinks", ())
        for layer in layers
        for part in layer.modules()
    )
    return not any(windows) and not watched


def embedded(decoder: Any, once: EncodedOnce, read: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    """Return the embeddings ``(B, T, D)`` and the positions with which a model calls its decoder.

    Args:
        decoder: The language model inside the model; its layers do not run.
        once: Encodes media that occur several times only once.
        read: Function that runs the whole model.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(inputs_embeds: Tensor, position_ids: Tensor, **_: Any) -> BaseModelOutputWithPast:
        seen.append((inputs_embeds, position_ids))
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds[:, :0])

    with forward_as(decoder, keep), once.reading():
        read()
    return seen[0]


@dataclass(eq=False)
class _Prompt:
    """One prompt, and the keys and values of all its tokens for each layer that has run."""

    embeds: Tensor  # (T, D)
    positions: Tensor  # (T,) or (3, T)
    origin: _Prompt | None = None  # an earlier prompt with the same beginning
    shared: int = 0  # number of first tokens whose keys and values are taken from it
    past: Past = field(default_factory=list)

    @property
    def length(self) -> int:
        """Number of tokens that have to be read."""
        return len(self.embeds) - self.shared

    def take_in(self, number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values of the tokens that were read; return those of all tokens."""
        if self.origin is not None:
            begun = self.origin.past[number]
            keys = torch.cat((begun[0][: self.shared], keys))
            values = torch.cat((begun[1][: self.shared], values))
        self.past.append((keys, values))
        return keys, values


class DecoderPass:
    """Runs the layers of a decoder; the weights must not change afterwards.

    Args:
        model: The whole model, in evaluation mode.
        decoder: The language model inside it, for which :func:`can_run` is True.
    """

    def __init__(self, model: nn.Module, decoder: Any) -> None:
        self.decoder, self.once = decoder, EncodedOnce(model)
        linear = [m for layer in decoder.layers for m in _linear(layer)]
        self.alone = all(map(reads_tokens_alone, linear))
        """Whether no adapter depends on other tokens or on the batch, so that prompts may be joined."""
        dtype = decoder.embed_tokens.weight.dtype
        last = decoder.layers[-1]
        self.blocks = [_Block(layer, dtype, layer is last and self.alone) for layer in decoder.layers]
        self._axes = 3
        self._latest: _Prompt | None = None

    def prompts(
        self, embeds: Tensor, positions: Tensor, mask: Tensor, tell: Callable[[int], None]
    ) -> tuple[Tensor, list[Past]]:
        """Read B prompts.

        Args:
            embeds: ``(B, T, D)``, with the media inserted.
            positions: ``(B, T)`` or ``(3, B, T)``, as the decoder takes them.
            mask: ``(B, T)``, 0 in padding.
            tell: Function that is called with the number of a row before this row is read alone.

        Returns:
            The hidden state of the last position of each prompt, ``(B, D)``, and the keys and values of each
            prompt.
        """
        self._axes = positions.ndim
        present = mask.bool()
        rows = [_Prompt(embeds[i, here], positions[..., i, here]) for i, here in enumerate(present)]
        if self.alone:
            find_shared(([] if self._latest is None else [self._latest]) + rows)
        states = []
        for part in self._parts(rows):
            if not self.alone:
                tell(part[0])
            states.append(self._read([rows[row] for row in part]))
        for row in rows:
            row.origin = None  # the shared keys and values have been copied
        last = rows[-1]
        self._latest = _Prompt(
            last.embeds, last.positions, past=[(keys.clone(), values.clone()) for keys, values in last.past]
        )
        return torch.cat(states), [row.past for row in rows]

    def step(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Slots) -> Tensor:
        """Read T tokens for each of S answers.

        Args:
            ids: ``(S, T)``.
            positions: ``(3, S, T)``.
            mask: ``(S, 1, T, columns)``, added to the attention scores.
            cache: Cache to which the keys and values of the tokens are added.

        Returns:
            Hidden states ``(S, T, D)``.
        """
        count, width = ids.shape
        x = self.decoder.embed_tokens(ids)
        turn = self._turns(x, positions if self._axes == 3 else positions[0])
        for number, block in enumerate(self.blocks):
            q, k, v = (part.view(count, width, *part.shape[1:]) for part in block.projected(x, turn))
            keys, values = cache.update(k.transpose(1, 2), v.transpose(1, 2), number)
            # Queries with the same keys become neighbours in one dimension, so that no key is copied.
            shared = torch.unflatten(q, 2, (keys.shape[1], -1)).permute(0, 2, 3, 1, 4)
            group = shared.shape[2]
            seen = F.scaled_dot_product_attention(
                shared.flatten(2, 3),
                keys,
                values,
                attn_mask=mask if group == 1 or width == 1 else mask.repeat(1, 1, group, 1),
                scale=block.attention.scaling,
            )
            x = block.finished(x, torch.unflatten(seen, 2, (group, width)).permute(0, 3, 1, 2, 4).flatten(2))
        return _normed(self.decoder.norm, x)

    def _parts(self, rows: Sequence[_Prompt]) -> list[list[int]]:
        """Return groups of row numbers; the rows of a group are read together."""
        parts: list[list[int]] = []
        total = 0
        for number, row in enumerate(rows):
            if not parts or not self.alone or total + row.length > READ_TOKENS:
                parts.append([])
                total = 0
            parts[-1].append(number)
            total += row.length
        return parts

    def _turns(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines and signed sines ``(N, 1, D)`` that rotate N tokens by their positions."""
        cos, sin = (part.flatten(0, 1)[:, None] for part in self.decoder.rotary_emb(x, positions))
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), -1)

    def _read(self, rows: Sequence[_Prompt]) -> Tensor:
        """Read the new tokens of several prompts, joined into one sequence; return ``(rows, D)``."""
        x = torch.cat([row.embeds[row.shared :] for row in rows])[None]
        turn = self._turns(x, torch.cat([row.positions[..., row.shared :] for row in rows], -1)[..., None, :])
        lengths = [row.length for row in rows]
        ends = torch.tensor(lengths, device=x.device).cumsum(0) - 1
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            only = ends if number == last and self.alone else None
            q, k, v = block.projected(x, turn, only)
            many = lengths if only is None else [1] * len(lengths)
            parts = zip(torch.split(q, many), torch.split(k, lengths), torch.split(v, lengths), strict=True)
            seen = []
            for row, (queries, new_keys, new_values) in zip(rows, parts, strict=True):
                keys, values = row.take_in(number, new_keys, new_values)
                seen.append(_attended(queries, keys, values, block.attention.scaling))
            x = block.finished(x if only is None else x[:, only], torch.cat(seen)[None])
        if not self.alone:
            x = x[:, ends]
        return _normed(self.decoder.norm, x)[0]


def find_shared(rows: Sequence[_Prompt]) -> None:
    """Set ``origin`` and ``shared`` of each unread prompt that has the same beginning as an earlier one.

    Equal embeddings at equal positions after an equal beginning have equal keys and values. Such a beginning
    is, for example, a system message, or a clip about which another question was asked.
    """
    width = max(len(row.embeds) for row in rows)
    # One value of each embedding is compared first; padding is NaN, which equals nothing.
    hints = rows[0].embeds.new_full((len(rows), width), float("nan"))
    for hint, row in zip(hints, rows, strict=True):
        hint[: len(row.embeds)] = row.embeds[:, 0]
    alike = (hints[:, None] == hints).cumprod(-1).sum(-1).tolist()
    for number, row in enumerate(rows):
        if row.past or not number:
            continue
        hoped, other = max(zip(alike[number][:number], rows, strict=False), key=lambda pair: pair[0])
        hoped = min(hoped, len(row.embeds) - 1)  # the last token has to be read
        if hoped >= SHARED_TOKENS:
            same = (row.embeds[:hoped] == other.embeds[:hoped]).all(-1)
            placed = row.positions[..., :hoped] == other.positions[..., :hoped]
            same &= placed if placed.ndim == 1 else placed.all(0)
            shared = int(same.cumprod(0).sum())
            if shared >= SHARED_TOKENS:
                row.origin, row.shared = other, shared


def _attended(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return the attention output ``(N, H * D)`` of ``q`` ``(N, H, D)``, the last N of T tokens; causal."""
    new, total = len(q), len(k)
    mask = None
    if 1 < new < total / 2:
        mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    elif 1 < new < total:  # padding the queries costs less than a mask; the padded results are dropped
        q = F.pad(q, (0, 0, 0, 0, total - new, 0))
    found = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None and len(q) > 1,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return found[0, :, -new:].transpose(0, 1).flatten(1)


class _Block:
    """One decoder layer: attention and a gated MLP, each with a norm before it and a residual connection."""

    def __init__(self, layer: Any, dtype: torch.dtype, parted: bool) -> None:
        self.layer, self.attention = layer, layer.self_attn
        q, k, v, o, gate, up, down = _linear(layer)
        self.qkv = LinearGroup([q, k, v], dtype)
        if parted:  # for ``only``
            self.q, self.kv = LinearGroup([q], dtype), LinearGroup([k, v], dtype)
        self.o, self.gate_up, self.down = (LinearGroup(g, dtype) for g in ([o], [gate, up], [down]))

    def projected(
        self, x: Tensor, turn: tuple[Tensor, Tensor], only: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (with ``only``, of these tokens), keys and values ``(N, H, D)`` of N tokens."""
        x = _normed(self.layer.input_layernorm, x)
        if only is None:
            q, k, v = self.qkv(x)
            asked = turn
        else:
            k, v = self.kv(x)
            [q] = self.q(x[:, only])
            asked = (turn[0][only], turn[1][only])
        q, k, v = (
            part.reshape(-1, part.shape[-1] // self.attention.head_dim, self.attention.head_dim)
            for part in (q, k, v)
        )
        return _turned(q, *asked), _turned(k, *turn), v

    def finished(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the layer's output, for its input ``x`` and the attention output ``(..., H * D)``."""
        [attended] = self.o(seen)
        x = attended.add_(x)
        gate, up = self.gate_up(_normed(self.layer.post_attention_layernorm, x))
        [out] = self.down(self.layer.mlp.act_fn(gate).mul_(up))
        return out.add_(x)


def _linear(layer: Any) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    ]


def _normed(norm: Any, x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        out: Tensor = norm(x)  # this rounds twice, which F.rms_norm does not
        return out
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads ``(N, H, D)`` by their positions."""
    half = x.shape[-1] // 2
    return (x * cos).addcmul_(torch.cat((x[..., half:], x[..., :half]), -1), sin)
