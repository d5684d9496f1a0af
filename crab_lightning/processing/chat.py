"""Writes a conversation with the chat template of any model, with free places for media.

Language models without media tokens get media as embeddings. The processor writes another token in these
places and marks them, so that the vocabulary needs no new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, AutoTokenizer

from crab_lightning.processing.base import check_media, check_reserved
from crab_lightning.structures import Example, Media, Reply, Sample

# Tokens that stand for clips. They are special tokens, so that the tokenizer treats the text beside them as
# usual. The model never gets them.
_MARKS = {media: f"<|crab:{media.value}|>" for media in Media}


@dataclass(frozen=True)
class Written:
    """A conversation as tokens.

    Args:
        ids: Token ids, with one placeholder for each clip.
        media: For each token, the kind of the clip for which it stands, or ``None`` for text.
        learnt: For each token, whether it is learnt. These are the answer and its end token, and earlier
            answers if the example asks for this. In a prompt, no token is learnt.
    """

    ids: list[int]
    media: list[Media | None]
    learnt: list[bool]


def _token_id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


class ChatWriter:
    """Writes conversations with a tokenizer's own chat template.

    Args:
        pretrained: Folder or hub name of the language model.
        system: System message. By default, that of the template is used, if it has one.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        end_token: Token that ends an answer. By default, the end token of the tokenizer.

    Raises:
        ValueError: If there is no chat template, or no end token.
    """

    def __init__(
        self,
        pretrained: str,
        system: str | None = None,
        chat_template: str | Path | None = None,
        end_token: str | None = None,
    ) -> None:
        self.pretrained, self.system = pretrained, system
        self.tokenizer: Any = AutoTokenizer.from_pretrained(pretrained, trust_remote_code=False)
        if chat_template is not None:
            self.tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{pretrained}: its tokenizer has no chat template. Use the chat model (Llama-2-7b-chat-hf), "
                "or set model.chat_template to a Jinja file"
            )
        self.reserved = tuple(self.tokenizer.all_special_tokens)
        end = self.tokenizer.eos_token if end_token is None else end_token
        self.end_token = -1 if end is None else _token_id(self.tokenizer, end)
        if self.end_token < 0 or self.end_token == self.tokenizer.unk_token_id:
            raise ValueError(f"{pretrained}: end_token {end!r} is not a token of its vocabulary")
        # Llama 2 and 3 have no padding token. Any token can be used, because padding is masked by length.
        pad = self.tokenizer.pad_token_id
        self.pad_token = int(self.end_token if pad is None else pad)
        self.tokenizer.add_tokens(
            [AddedToken(mark, special=True, normalized=False) for mark in _MARKS.values()],
            special_tokens=True,
        )
        self._media = {_token_id(self.tokenizer, mark): m for m, mark in _MARKS.items()}

    def write(self, example: Example) -> Written:
        """Write one example. The answer, if there is one, is written up to its end token.

        Raises:
            ValueError: If the numbers of placeholders and media differ, a text contains a reserved token, or
                the template does not write the answer with an end token after the prompt.
        """
        check_media(example)
        self._check_texts(example)
        prompt = self.render(example, with_target=False)
        ids = self._tokenize(prompt)
        tail: list[int] = []
        if example.target is not None:
            tail = self._answer(example, prompt, ids)
        all_ids = ids + tail
        learnt = [False] * len(ids) + [True] * len(tail)
        if example.learn_replies and tail:
            for place in self._reply_places(example, prompt, ids):
                learnt[place] = True
        return Written(all_ids, [self._media.get(i) for i in all_ids], learnt)

    def _reply_places(self, example: Example, prompt: str, ids: list[int]) -> Iterator[int]:
        """Yield the places of the tokens of earlier answers, with their end tokens, in a prompt."""
        offsets = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        starts = [start for start, _ in offsets["offset_mapping"]]
        for count, part in enumerate(example.conversation):
            if not isinstance(part, Reply):
                continue
            before = self.render(
                replace(example, conversation=example.conversation[:count]), with_target=False
            )
            if not prompt.startswith(before) or not prompt[len(before) :].lstrip().startswith(part.strip()):
                raise ValueError(
                    f"{self.pretrained}: its chat template does not write an earlier answer in the same way "
                    "as the last one, so earlier answers cannot be learnt; set `turns: last` in the "
                    "dataset's entry, or model.chat_template to a template that does"
                )
            place = next(i for i, start in enumerate(starts) if start >= len(before))
            end = ids.index(self.end_token, place) if self.end_token in ids[place:] else -1
            if end < 0 or starts[end] > prompt.index(part.strip(), len(before)) + len(part.strip()) + 1:
                raise ValueError(
                    f"{self.pretrained}: its chat template does not end an earlier answer with its end "
                    "token, so earlier answers cannot be learnt; set `turns: last` in the dataset's entry"
                )
            yield from range(place, end + 1)

    def render(self, example: Example, *, with_target: bool) -> str:
        """Return the text of the conversation from the chat template, with a mark for each clip."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        user = {"role": "user", "content": ""}
        messages.append(user)
        for part in example.conversation:
            if isinstance(part, Reply):
                user = {"role": "user", "content": ""}
                messages += [{"role": "assistant", "content": part.strip()}, user]
            else:
                user["content"] += _MARKS[part] if isinstance(part, Media) else part
        if with_target:
            messages.append({"role": "assistant", "content": (example.target or "").strip()})
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not with_target
        )
        return text

    def _answer(self, example: Example, prompt: str, prompt_ids: list[int]) -> list[int]:
        text = self.render(example, with_target=True)
        if not text.startswith(prompt):
            raise ValueError(
                f"{self.pretrained}: its chat template writes {text[:200]!r} for an answered question, which "
                f"does not begin with the prompt {prompt[:200]!r}; set model.chat_template to another file"
            )
        whole = self._tokenize(text)
        count = len(prompt_ids)
        # The prompt must have the same tokens as in generation. If the first letters of the answer would
        # merge with it, the answer is tokenized on its own.
        tail = whole[count:] if whole[:count] == prompt_ids else self._tokenize(text[len(prompt) :])
        if self.end_token not in tail:
            raise ValueError(
                f"{self.pretrained}: its chat template does not end an answer with "
                f"{self.tokenizer.convert_ids_to_tokens(self.end_token)!r}: a model trained like this"
                f" would never stop. Set model.end_token to the token that the template writes"
            )
        return tail[: tail.index(self.end_token) + 1]  # generation never sees later tokens

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens of an answer as in training, with the end token.

        Raises:
            ValueError: If the text contains a reserved token, or the template does not end an answer.
        """
        sample = Sample(id=f"answer {text!r}", dataset="", task="", split="test", clip="")
        # Any question can be used, because the tokens of the answer begin after the prompt.
        example = Example(sample, ("?",), text)
        self._check_texts(example)
        prompt = self.render(example, with_target=False)
        return self._answer(example, prompt, self._tokenize(prompt))

    def _tokenize(self, text: str) -> list[int]:
        # the template has written the beginning-of-sequence token, if the model needs one
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _check_texts(self, example: Example) -> None:
        texts = [part for part in example.conversation if isinstance(part, str)]
        check_reserved(example.sample.id, [*texts, example.target or ""], (*self.reserved, *_MARKS.values()))

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, without special tokens and outer white space."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()


def expanded(values: Sequence[int], repeats: Sequence[int]) -> Tensor:
    """Return each value repeated, ``(sum(repeats),)``, as int64 or, for truth values, as bool."""
    return torch.repeat_interleave(torch.tensor(values), torch.tensor(repeats, dtype=torch.long))
