"""Continuous batching: when an answer is finished, its slot is given to the next prompt at once.

Prompts are read in the batches in which they come. Each prompt then waits, with its keys and values, until
one of a fixed number of slots is free. Every decoding step writes one token for each slot in use, and the
next tokens that were guessed correctly. So a short answer does not wait for a long one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from crab_lightning.models.decoder_pass import DecoderPass, Past
from crab_lightning.models.foresight import GUESSES, Foresight
from crab_lightning.structures import Sample

BLOCK = 256
"""Cache columns by which the buffers of the slots grow."""


# Reads tokens that follow those in a cache: (input_ids (B, T), position_ids (3, B, T), mask, cache) -> hidden
# states (B, T, D). The mask is (B, past + T), or (B, 1, T, past + T) to be added to the attention scores.
ReadTokens = Callable[[Tensor, Tensor, Tensor, Any], Tensor]

# Reads prompts: (input_ids (B, T), position_ids (3, B, T), mask (B, T)) -> hidden states of the last position
# (B, D), and the keys and values of each prompt.
ReadPrompts = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, list[Past]]]


_COLDEST = 1e-6
"""Smallest temperature that is used; float32 cannot divide by a much smaller one."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token; larger values make unlikely tokens more frequent.
        top_p: Only the likeliest tokens whose probabilities sum to this fraction are considered.
        seed: Seed of the random choices for one answer; they do not depend on other answers.

    Raises:
        ValueError: If a value is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"temperature is {self.temperature}; it must be between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")


@dataclass(eq=False)
class Answer:
    """One answer that is being written.

    Args:
        sample: The question.
        limit: Largest number of tokens.
        sampling: How the tokens are chosen.
        tokens: The tokens so far, without the end token.
        finished: True after the end token or the limit was reached.
        truncated: True if the limit was reached before the end token.
        cancelled: Set this to True to drop the answer at the next step.
        generator: Random generator of the answer; it is made at the first random choice.
    """

    sample: Sample
    limit: int
    sampling: Sampling = Sampling()
    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    truncated: bool = False
    cancelled: bool = False
    generator: torch.Generator | None = None


@dataclass(eq=False)
class _Waiting:
    """A prompt that has been read and waits for a slot."""

    answer: Answer
    past: Past
    following: float
    token: int


def padded(read: ReadTokens) -> ReadPrompts:
    """Return a function that reads left-padded prompts in one batch with the model's own forward."""

    def prompts(ids: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, list[Past]]:
        cache: Any = DynamicCache()
        hidden = read(ids, positions, mask, cache)
        layers = [(layer.keys.transpose(1, 2), layer.values.transpose(1, 2)) for layer in cache.layers]
        starts = (ids.shape[1] - mask.sum(-1)).tolist()
        return hidden[:, -1], [[(k[b, s:], v[b, s:]) for k, v in layers] for b, s in enumerate(starts)]

    return prompts


class SlotCache(DynamicCache):
    """Keys and values of S slots, in buffers that are reused from step to step.

    ``columns`` ``(S, T)`` holds the columns to which each slot in use writes its next tokens; ``used`` is the
    number of columns that attention reads.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.stored: list[tuple[Tensor, Tensor]] = []
        self.used = 0
        self.columns: Tensor | None = None
        self._rows: Tensor | None = None

    def put(self, slot: int, past: Past) -> int:
        """Copy a prompt's keys and values into a slot, and return the number of its tokens."""
        length = len(past[0][0])
        if not self.stored:

            def room(part: Tensor) -> Tensor:
                return part.new_zeros(self.slots, part.shape[1], BLOCK, part.shape[2])

            self.stored = [(room(keys), room(values)) for keys, values in past]
            self._rows = torch.arange(self.slots, device=past[0][0].device)
        self.reserve(length + 1)
        for (keys, values), (k, v) in zip(self.stored, past, strict=True):
            keys[slot, :, :length] = k.transpose(0, 1)
            values[slot, :, :length] = v.transpose(0, 1)
        return length

    def move(self, slot: int, place: int, length: int) -> None:
        """Copy the first ``length`` columns of a slot to the slot ``place``."""
        for pair in self.stored:
            for kept in pair:
                kept[place, :, :length] = kept[slot, :, :length]

    def reserve(self, columns: int) -> None:
        """Enlarge the buffers to at least this number of columns."""
        have = int(self.stored[0][0].shape[2])
        if columns <= have:
            return
        size = max(-(-columns // BLOCK) * BLOCK, have + have // 2)
        more = (0, 0, 0, size - have)
        self.stored = [(F.pad(keys, more), F.pad(values, more)) for keys, values in self.stored]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values ``(S, H, T, D)`` of a layer, and return those of all columns in use."""
        assert self._rows is not None
        count = len(key_states)
        rows = self._rows[:count, None]
        keys, values = self.stored[layer_idx]
        keys[rows, :, self.columns] = key_states.transpose(1, 2)
        values[rows, :, self.columns] = value_states.transpose(1, 2)
        return keys[:count, :, : self.used], values[:count, :, : self.used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns before this step, for a model's own forward, which reads one token."""
        return self.used - 1


class AnswerEngine:
    """Answers prompts in S slots; an answer does not depend on the other answers.

    Args:
        read: Function that reads tokens and returns hidden states.
        head: Layer that maps hidden states to logits.
        end_token: Token that ends an answer.
        announce: Function that gets the samples of the answers before each step; adapters that differ by
            task need it.
        slots: Number S of answers that are generated at the same time.
        blocks: The object that runs the decoder's layers; ``None`` if the model's own forward does.

    Raises:
        ValueError: If ``slots`` is below 1.
    """

    def __init__(
        self,
        read: ReadTokens,
        head: nn.Module,
        end_token: int,
        announce: Callable[[Sequence[Sample]], None],
        slots: int,
        blocks: DecoderPass | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"the number of slots is {slots}; it must be at least 1")
        self.read, self.head, self.end_token, self.announce = read, head, end_token, announce
        self.slots, self.blocks = slots, blocks
        self.waiting: deque[_Waiting] = deque()
        self.active: list[Answer | None] = [None] * slots
        self.finished: list[Answer] = []
        self._cache = SlotCache(slots)
        self._foresight = Foresight()
        self._tokens = [0] * slots
        self._following: list[float] = [0] * slots  # positions; some families have fractions
        self._columns = [0] * slots
        self._device: torch.device | None = None

    @property
    def busy(self) -> bool:
        """Whether any prompt waits or any answer is being written."""
        return bool(self.waiting) or any(answer is not None for answer in self.active)

    def add(
        self,
        answers: Sequence[Answer],
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        read: ReadPrompts,
    ) -> None:
        """Read B left-padded prompts and put their answers into the queue.

        Args:
            answers: The B answers, in the order of the rows.
            input_ids: ``(B, T)``.
            attention_mask: ``(B, T)``, 0 in padding.
            position_ids: ``(3, B, T)``.
            read: Function that reads these prompts with their media.

        Raises:
            ValueError: If a prompt is padded to the right, because its answer would continue the padding, or
                an answer's limit is below 1.
        """
        if not bool(attention_mask[:, -1].all()):
            raise ValueError("a prompt is padded to the right; collate prompts without labels")
        if any(answer.limit < 1 for answer in answers):
            raise ValueError("the largest number of new tokens is below 1; at least 1 is needed")
        states, pasts = read(input_ids, position_ids, attention_mask)
        logits = self.head(states)
        first = logits.argmax(-1).tolist()
        following = (position_ids[:, :, -1].amax(0) + 1).tolist()
        self._device = input_ids.device
        for row, answer in enumerate(answers):
            token = self._chosen(answer, logits[row], first[row])
            if not self._written(answer, token):
                self.waiting.append(_Waiting(answer, pasts[row], following[row], token))

    def step(self) -> None:
        """Give free slots to waiting prompts, and write one or more tokens for each slot in use."""
        self.waiting = deque(one for one in self.waiting if not one.answer.cancelled)
        self.active = [None if answer is None or answer.cancelled else answer for answer in self.active]
        self._fill_gaps()
        answers = [answer for answer in self.active if answer is not None]
        count = len(answers)
        if not count:
            return
        guesses = [self._guesses(answer) for answer in answers]
        width = 1 + max(map(len, guesses))
        cache, device = self._cache, self._device
        cache.used = max(self._columns[:count]) + width
        cache.reserve(cache.used)
        ahead = torch.arange(width, device=device)
        cache.columns = torch.tensor(self._columns[:count], device=device)[:, None] + ahead
        seen = torch.arange(cache.used, device=device) <= cache.columns[:, :, None]
        dtype = cache.stored[0][0].dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=device)
        mask = mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
        self.announce([answer.sample for answer in answers])
        rows = [
            [token, *guessed] + [self.end_token] * (width - 1 - len(guessed))
            for token, guessed in zip(self._tokens, guesses, strict=False)
        ]
        ids = torch.tensor(rows, device=device)
        positions = (torch.tensor(self._following[:count], device=device)[:, None] + ahead).expand(3, -1, -1)
        logits = self.head(self.read(ids, positions, mask, cache))
        likeliest = logits.argmax(-1).tolist()
        for slot, (answer, guessed) in enumerate(zip(answers, guesses, strict=True)):
            for place in range(1 + len(guessed)):
                token = self._chosen(answer, logits[slot, place], likeliest[slot][place])
                self._tokens[slot] = token
                self._following[slot] += 1
                self._columns[slot] += 1
                if self._written(answer, token):
                    self.active[slot] = None
                    break
                if guessed[place : place + 1] != [token]:
                    break  # the guess was wrong; the next step overwrites the tokens after it

    def take(self) -> list[Answer]:
        """Return the answers that were finished since the last call, in the order in which they ended."""
        found, self.finished = self.finished, []
        return found

    def _fill_gaps(self) -> None:
        """Fill free slots with waiting prompts, or else with the answer of the last slot in use."""
        for slot in range(self.slots):
            if self.active[slot] is not None:
                continue
            if self.waiting:
                new = self.waiting.popleft()
                self._columns[slot] = self._cache.put(slot, new.past)
                self._tokens[slot], self._following[slot] = new.token, new.following
                self.active[slot] = new.answer
                continue
            last = max((s for s, answer in enumerate(self.active) if answer is not None), default=-1)
            if last < slot:
                return
            self._cache.move(last, slot, self._columns[last])
            self._tokens[slot], self._following[slot] = self._tokens[last], self._following[last]
            self._columns[slot] = self._columns[last]
            self.active[slot], self.active[last] = self.active[last], None

    def _guesses(self, answer: Answer) -> list[int]:
        """Return guesses of the next tokens; none if a layer cannot read several tokens at once."""
        if self.blocks is None or not self.blocks.alone:
            return []
        return self._foresight.guess(answer.tokens, min(GUESSES, answer.limit - len(answer.tokens) - 1))

    def _written(self, answer: Answer, token: int) -> bool:
        """Add a token to an answer and return whether the answer is finished."""
        self._foresight.learn(answer.tokens, token)
        if token != self.end_token:
            answer.tokens.append(token)
        answer.finished = token == self.end_token or len(answer.tokens) == answer.limit
        answer.truncated = answer.finished and token != self.end_token
        if answer.finished:
            self.finished.append(answer)
        return answer.finished

    def _chosen(self, answer: Answer, logits: Tensor, likeliest: int) -> int:
        how = answer.sampling
        if how.temperature == 0:
            return likeliest
        if answer.generator is None:
            answer.generator = torch.Generator(device="cpu").manual_seed(how.seed)
        temperature = max(how.temperature, _COLDEST)
        probabilities, order = (logits.float().cpu() / temperature).softmax(-1).sort(descending=True)
        kept = probabilities.cumsum(0) - probabilities < how.top_p  # the first that reaches the share stays
        pick = torch.multinomial(probabilities * kept, 1, generator=answer.generator)
        return int(order[pick])
