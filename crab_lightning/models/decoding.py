"""Greedy decoding of left-padded prompts with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

# Reads new tokens: (input_ids (B, T), position_ids (3, B, T), attention_mask (B, past + T)) -> logits of the
# last place, (B, V). What was read before stays in a cache that the callable owns.
Reader = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Answers:
    """Generated tokens of B prompts.

    Args:
        tokens: The tokens of each answer, without the end token.
        truncated: True where the token limit came before the end token.
    """

    tokens: list[list[int]]
    truncated: list[bool]


def greedy(
    read: Reader,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    *,
    max_new_tokens: int,
    end_token: int,
    synchronize: bool = False,
) -> Answers:
    """Answer B prompts, always with the likeliest next token.

    Args:
        read: Reads tokens and returns the logits after the last one.
        input_ids: Prompts ``(B, T)``, padded to the left.
        attention_mask: ``(B, T)``, 0 where padded.
        position_ids: ``(3, B, T)``.
        max_new_tokens: Longest answer.
        end_token: Ends an answer.
        synchronize: Go on until every process has finished. Needed where the weights are sharded, since each
            step then is a collective call.

    Raises:
        ValueError: If a prompt is padded to the right: its answer would continue the padding.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed")
    if not bool(attention_mask[:, -1].all()):
        raise ValueError(
            "a prompt is padded to the right; generation needs left padding (collate without labels)"
        )
    batch = len(input_ids)
    # Where training has it: behind the prompt's last token. (A long video's times may lie beyond that token
    # in Qwen2.5-VL; transformers then generates from behind those, at other places than it learns at.)
    following = position_ids[:, :, -1].amax(dim=0) + 1
    done = torch.zeros(batch, dtype=torch.bool, device=input_ids.device)
    columns: list[Tensor] = []
    logits = read(input_ids, position_ids, attention_mask)
    while True:
        token = logits.argmax(-1).masked_fill(done, end_token)
        columns.append(token)
        done = done | (token == end_token)
        if len(columns) == max_new_tokens or not _anyone_busy(done, synchronize):
            break
        attention_mask = torch.cat((attention_mask, attention_mask.new_ones(batch, 1)), dim=1)
        logits = read(token[:, None], following.expand(3, -1)[:, :, None], attention_mask)
        following = following + 1
    rows = torch.stack(columns, dim=1).tolist()
    tokens = [row[: row.index(end_token)] if end_token in row else row for row in rows]
    return Answers(tokens, [end_token not in row for row in rows])


def _anyone_busy(done: Tensor, synchronize: bool) -> bool:
    busy = (~done).any()
    if synchronize and distributed.is_available() and distributed.is_initialized():
        flag = busy.to(torch.int32)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        busy = flag > 0
    return bool(busy)
