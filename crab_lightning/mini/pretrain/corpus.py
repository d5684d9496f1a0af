"""Batches of conversations for the pre-training of the mini base model, and texts for its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from crab_lightning.mini.pretrain.conversations import KINDS, draw
from crab_lightning.mini.pretrain.dialogue import numbers, relate
from crab_lightning.mini.pretrain.texts import conclude
from crab_lightning.mini.world.datasets import DATASETS, make_item
from crab_lightning.mini.world.describe import QA, describe
from crab_lightning.mini.world.scenes import rng_for
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.base import IGNORED_LABEL
from crab_lightning.structures import Batch, Encoded

_BRACKETS = re.compile(r"(?<=[<>\[\](/])")


def go_on(processor: NativeProcessor, first: Encoded, rest: Sequence[QA]) -> Encoded:
    """Append questions and answers to an encoded example. Every answer of the conversation is a target."""
    assert first.labels is not None
    ids, labels = [first.inputs["input_ids"]], [first.labels]
    end = processor.tokenizer("\n")["input_ids"]
    for question, answer in rest:
        head = processor.tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant")[
            "input_ids"
        ]
        tail = processor.tokenizer(f"\n{answer}<|im_end|>")["input_ids"]
        ids.append(torch.tensor(head + tail + end))
        nothing = [IGNORED_LABEL]
        labels.append(torch.tensor(nothing * len(head) + tail + nothing * len(end)))
    joined = torch.cat(ids)
    positions = first.inputs["position_ids"]
    more = positions[:, -1:] + 1 + torch.arange(len(joined) - positions.shape[1])
    inputs = {**first.inputs, "input_ids": joined, "position_ids": torch.cat((positions, more), 1)}
    return Encoded(inputs, torch.cat(labels), first.sample)


class Corpus(IterableDataset[Batch]):
    """Batches of conversations, without an end. A batch has one kind of them, so that padding is short.

    Args:
        processor: Encodes the examples.
        seed: Seed of the random stream; every loader process has a stream of its own. Mini AV-UIE data with
            another seed has no clip in common with it.
        tokens: Largest number of tokens in a batch, with padding.
        questions: Largest number of questions about one clip.
        kinds: Kind of conversation -> weight.
        lists: As in :func:`draw`.

    Raises:
        ValueError: If a kind is not in :data:`KINDS`.
    """

    def __init__(
        self,
        processor: NativeProcessor,
        seed: int,
        tokens: int,
        questions: int,
        kinds: Mapping[str, float],
        lists: int,
    ) -> None:
        self.processor, self.seed, self.tokens = processor, seed, tokens
        self.questions, self.lists = questions, lists
        self.kinds = dict(kinds)
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(
                f"there is no kind of conversation {unknown[0]!r}; there are: {', '.join(KINDS)}"
            )

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        rng = rng_for(self.seed, "corpus", info.id if info else 0)
        names, chances = list(self.kinds), np.array(list(self.kinds.values()), float)
        while True:
            kind = names[int(rng.choice(len(names), p=chances / chances.sum()))]
            encoded: list[Any] = []
            longest = 0
            while (len(encoded) + 1) * longest <= self.tokens:
                example, rest = draw(kind, rng, self.seed, self.questions, self.lists)
                encoded.append(go_on(self.processor, self.processor.encode(example), rest))
                longest = max(longest, len(encoded[-1].inputs["input_ids"]))
            yield self.processor.collate(encoded)


def corpus_texts(seed: int, count: int) -> list[str]:
    """Return questions, answers and texts of the tasks from which the vocabulary is learnt.

    Texts are cut at brackets. The pre-tokenizer of Qwen joins a bracket with the word behind it, so that
    ``>joy`` would become one token that occurs nowhere else. After the cut it is ``>`` and the same ``joy``
    that starts any answer.
    """
    rng = rng_for(seed, "texts")
    texts: list[str] = []
    for index in range(count):
        for dataset in DATASETS:
            item = make_item(dataset, "train", index, seed)
            texts += [item.target, *(str(v) for v in item.fields.values() if isinstance(v, str) and " " in v)]
            for scene in (*item.videos, *item.audios):
                asked = describe(scene, rng) + relate(scene, rng) + numbers(scene, rng)
                texts += [text for pair in asked for text in pair]
        texts += [text for _ in range(10) for text in conclude(rng, seed)]
    return [part.strip() for text in texts for part in _BRACKETS.split(text) if part.strip()]
