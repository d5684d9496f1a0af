"""Reads prompts once, and then generates answers or computes the probabilities of candidate answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from crab_lightning.models.losses import CHUNK_TOKENS

# Reads new tokens: (input_ids (B, T), position_ids (3, B, T), attention_mask) -> hidden states (B, T, D). The
# mask is (B, past + T), or (B, 1, T, past + T) to be added to attention scores. The function has a cache.
HiddenReader = Callable[[Tensor, Tensor, Tensor], Tensor]

PACKED_TOKENS = 1024
"""Number of candidate tokens of a prompt that are read at once; the mask of 16 prompts takes up to 60 MB."""


@dataclass(frozen=True)
class Answers:
    """Generated tokens of B prompts.

    Args:
        tokens: The tokens of each answer, without the end token.
        truncated: True if the token limit was reached before the end token.
    """

    tokens: list[list[int]]
    truncated: list[bool]


class PromptReader:
    """B left-padded prompts that are read at most once; their keys and values are kept in a cache.

    Args:
        read: Function that reads tokens and has the cache.
        head: Layer that maps hidden states to logits.
        input_ids: Prompts ``(B, T)``, padded to the left.
        attention_mask: ``(B, T)``, 0 in padding.
        position_ids: ``(3, B, T)``.

    Raises:
        ValueError: If a prompt is padded to the right, because its answer would continue the padding.
    """

    def __init__(
        self,
        read: HiddenReader,
        head: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
    ) -> None:
        if not bool(attention_mask[:, -1].all()):
            raise ValueError("a prompt is padded to the right; collate prompts without labels")
        self.read, self.head = read, head
        self.input_ids, self.attention_mask, self.position_ids = input_ids, attention_mask, position_ids
        # The answer's positions follow the prompt's last token, as in training. (In Qwen2.5-VL the positions
        # of a long video may be beyond that token; transformers then generates at other positions than in
        # training.)
        self._following = position_ids[:, :, -1].amax(dim=0) + 1
        self._cached = 0
        self._after_prompt: Tensor | None = None

    def answers(self, *, max_new_tokens: int, end_token: int, synchronize: bool = False) -> Answers:
        """Answer the prompts, always with the likeliest next token.

        Args:
            max_new_tokens: Largest number of tokens of an answer.
            end_token: Token that ends an answer.
            synchronize: Continue until every process has finished. This is needed if the weights are sharded,
                because each step is then a collective call.

        Raises:
            ValueError: If ``max_new_tokens`` is below 1.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed")
        mask, following = self.attention_mask, self._following
        done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        columns: list[Tensor] = []
        hidden = self._hidden(self.input_ids, self.position_ids, mask)
        while True:
            # Only the last position: 700 tokens times a vocabulary of 152,064 would take 0.2 GB.
            token = self.head(hidden[:, -1]).argmax(-1).masked_fill(done, end_token)
            columns.append(token)
            done = done | (token == end_token)
            if len(columns) == max_new_tokens:
                break
            busy = (~done).any().int()
            if not (_largest(busy) if synchronize else busy):
                break
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            hidden = self._hidden(token[:, None], following.expand(3, -1)[:, :, None], mask)
            following = following + 1
        rows = torch.stack(columns, dim=1).tolist()
        tokens = [row[: row.index(end_token)] if end_token in row else row for row in rows]
        return Answers(tokens, [end_token not in row for row in rows])

    def token_log_probs(
        self, candidates: Sequence[Sequence[Sequence[int]]], *, synchronize: bool = False
    ) -> list[list[list[float]]]:
        """Return the log-probability of each token of each candidate answer, in nats.

        The candidates of a prompt are read in one row, at most ``PACKED_TOKENS`` tokens in a pass. A mask
        lets each candidate attend only to the prompt and to itself, so the prompt is not read again. This may
        be called after :meth:`answers`; the answers are then masked.

        Args:
            candidates: For each prompt the tokens of each candidate; an empty list for a prompt without
                candidates.
            synchronize: Make as many passes as the process with the most. This is needed if the weights are
                sharded, because each pass is then a collective call.

        Returns:
            Log-probabilities by prompt, candidate and token.

        Raises:
            ValueError: If a candidate is empty.
        """
        if any(not tokens for row in candidates for tokens in row):
            raise ValueError("a candidate answer has no token")
        if self._after_prompt is None:
            self._hidden(self.input_ids, self.position_ids, self.attention_mask)
        assert self._after_prompt is not None
        states: list[Tensor] = []
        wanted: list[int] = []
        owners: list[tuple[int, int]] = []
        for row, options in enumerate(candidates):  # first tokens follow the prompt itself
            states += [self._after_prompt[row]] * len(options)
            wanted += [tokens[0] for tokens in options]
            owners += [(row, place) for place in range(len(options))]
        passes = _passes(candidates)
        count = len(passes)
        if synchronize:
            count = int(_largest(torch.tensor(count, device=self.input_ids.device)))
        for number in range(count):
            chosen = passes[number] if number < len(passes) else [[] for _ in candidates]
            hidden = self._packed(candidates, chosen)
            for row, places in enumerate(chosen):
                column = 0
                for place in places:
                    following = candidates[row][place][1:]
                    states += list(hidden[row, column : column + len(following)])
                    wanted += following
                    owners += [(row, place)] * len(following)
                    column += len(following)
        values: list[list[list[float]]] = [[[] for _ in options] for options in candidates]
        for start in range(0, len(states), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = self.head(torch.stack(states[part])).float()
            tokens = torch.tensor(wanted[part], device=logits.device)
            found = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
            for (row, place), value in zip(owners[part], found, strict=True):
                values[row][place].append(value)
        return values

    def _hidden(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        hidden = self.read(ids, positions, mask)
        if self._after_prompt is None:
            self._after_prompt = hidden[:, -1]
        self._cached += ids.shape[1]
        return hidden

    def _packed(
        self, candidates: Sequence[Sequence[Sequence[int]]], chosen: Sequence[Sequence[int]]
    ) -> Tensor:
        """Read the chosen candidates of each prompt, without their last tokens, and return ``(B, W, D)``."""
        rows, device = len(candidates), self.input_ids.device
        lengths = [[len(candidates[row][place]) - 1 for place in chosen[row]] for row in range(rows)]
        width = max(1, *(sum(row) for row in lengths))
        ids, owner = torch.zeros(rows, width, dtype=torch.long), torch.full((rows, width), -1)
        depth = torch.zeros(rows, width, dtype=torch.long)
        for row in range(rows):
            column = 0
            for place, length in zip(chosen[row], lengths[row], strict=True):
                span = slice(column, column + length)
                ids[row, span] = torch.tensor(candidates[row][place][:-1], dtype=torch.long)
                owner[row, span], depth[row, span] = place, torch.arange(length)
                column += length
        ids, owner, depth = ids.to(device), owner.to(device), depth.to(device)
        positions = (self._following[:, None] + depth).expand(3, -1, -1)
        seen = torch.zeros(rows, 1, width, self._cached + width, dtype=torch.bool, device=device)
        prompt = self.attention_mask.shape[1]
        seen[:, 0, :, :prompt] = self.attention_mask.bool()[:, None]
        # Padding attends to padding, because the softmax of a position that attends to nothing is NaN.
        seen[:, 0, :, self._cached :] = (owner[:, :, None] == owner[:, None]) & (
            depth[:, None] <= depth[:, :, None]
        )
        assert self._after_prompt is not None
        dtype = self._after_prompt.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
        return self._hidden(ids, positions, mask)


def _passes(candidates: Sequence[Sequence[Sequence[int]]]) -> list[list[list[int]]]:
    """Return the numbers of the candidates that each pass reads, by pass and prompt."""
    passes: list[list[list[int]]] = []
    for row, options in enumerate(candidates):
        number, filled = 0, 0
        for place, tokens in enumerate(options):
            length = len(tokens) - 1
            if not length:  # its only token follows the prompt
                continue
            if filled and filled + length > PACKED_TOKENS:
                number, filled = number + 1, 0
            while len(passes) <= number:
                passes.append([[] for _ in candidates])
            passes[number][row].append(place)
            filled += length
    return passes


def _largest(number: Tensor) -> Tensor:
    """Return the largest of this number on all processes; it stays on its device."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(number, op=distributed.ReduceOp.MAX)
    return number
