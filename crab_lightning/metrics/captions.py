"""Captioning: BLEU, METEOR, ROUGE-L and CIDEr over a test set."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar, get_args

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric
from crab_lightning.metrics.caption_scores import Items, bleu, cider, rouge_l
from crab_lightning.metrics.caption_tools import (
    Tokenizer,
    choose_tokenizer,
    meteor,
    missing_tool,
    ptb_tokenize,
    python_tokenize,
)
from crab_lightning.metrics.scale import Scale


class CaptionScores(BenchmarkMetric):
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L in [0, 1] and CIDEr in [0, 10]; higher is better.

    Keys: ``bleu_1`` ... ``bleu_4``, ``meteor``, ``rouge_l``, ``cider``. Papers print them times 100. An empty
    candidate is legal and scores low; one item alone has a CIDEr of 0. No items: NaN.

    METEOR and the PTB tokenizer are Java programs of the package pycocoevalcap, an optional extra. Without
    them ``meteor`` is NaN with one warning that says what is missing, and the other scores are still
    computed. Which tokenizer made them stands in ``tokenizer_used`` after ``compute``.

    This metric works on text, since its scores are about text, and it grows with the data set: document
    frequencies of CIDEr, and METEOR, need all captions at the end.

    Source: TXH-mercury/VALOR cococaption/pycocoevalcap, the COCO caption tools; checked against
    pycocoevalcap.

    Args:
        tokenizer: ``ptb`` as published, or an error where it cannot run; ``python`` a plain one that needs no
            Java (see :func:`python_tokenize` for where it differs); ``auto`` the first that runs, with a
            warning when that is ``python``; ``none`` for texts that are tokens joined by spaces already.
        with_meteor: Whether to run METEOR; some seconds, and up to 2 GB of memory for Java.

    Raises:
        ValueError: If there is no such tokenizer.
    """

    # CIDEr ends at 10; papers print it in percent, and beyond 100 it counts as 1 in a mean over datasets.
    scales: ClassVar[Mapping[str, Scale]] = {"cider": Scale(high=10.0, counts_as=(0.0, 1.0))}

    def __init__(self, tokenizer: Tokenizer = "auto", with_meteor: bool = True) -> None:
        super().__init__()
        if tokenizer not in get_args(Tokenizer):
            raise ValueError(f"no tokenizer '{tokenizer}'; there are: {', '.join(get_args(Tokenizer))}")
        self.tokenizer = tokenizer
        self.with_meteor = with_meteor
        self.tokenizer_used: Tokenizer | None = None
        # Text travels between processes as bytes: each item a JSON list in one line.
        self.add_list("lines", torch.uint8)

    def update(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add N captions.

        Args:
            candidates: One caption for each item.
            references: At least one reference for each item.

        Raises:
            ValueError: If lengths differ or an item has no reference.
        """
        if isinstance(candidates, str) or len(candidates) != len(references):
            raise ValueError(f"{len(candidates)} candidates but {len(references)} lists of references")
        for candidate, own in zip(candidates, references, strict=True):
            if isinstance(own, str) or not own:
                raise ValueError(
                    f"references of '{candidate}' are {own!r}; give a list of at least one caption"
                )
            line = json.dumps([candidate, *own]).encode("ascii") + b"\n"
            self.append("lines", torch.frombuffer(bytearray(line), dtype=torch.uint8))

    def compute(self) -> dict[str, Tensor]:
        """Return the seven scores; ``meteor`` only if it is wanted."""
        names = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", *["meteor"] * self.with_meteor]
        # Sorted, so that sums of floats run in the same order on any number of processes.
        lines = sorted(self.joined("lines").cpu().numpy().tobytes().splitlines())
        values = [float("nan")] * len(names)
        if lines:
            items = self._tokenized([json.loads(line) for line in lines])
            values = [*bleu(items), rouge_l(items), cider(items)]
            if self.with_meteor:
                values.append(self._meteor(items))
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in zip(names, values, strict=True)
        }

    def _tokenized(self, texts: list[list[str]]) -> Items:
        chosen = choose_tokenizer(self.tokenizer)
        if chosen != self.tokenizer and (missing := missing_tool()) is not None:
            _warn_once(
                f"{missing}. Captions are split by the plain Python tokenizer instead, so scores differ "
                "slightly from published ones; set tokenizer: python to accept that without a warning."
            )
        self.tokenizer_used = chosen
        flat = [" ".join(text.split()) for item in texts for text in item]
        if chosen == "ptb":
            flat = ptb_tokenize(flat)
        elif chosen == "python":
            flat = [python_tokenize(text) for text in flat]
        tokens = iter(flat)
        return [(next(tokens), [next(tokens) for _ in item[1:]]) for item in texts]

    def _meteor(self, items: Items) -> float:
        if (missing := missing_tool()) is not None:
            _warn_once(
                f"{missing}; meteor is NaN, the other caption scores are computed. Set with_meteor: false to "
                "leave it out."
            )
            return float("nan")
        return meteor(items)


@cache
def _warn_once(text: str) -> None:
    """Warn, once in a process: every dataset and protocol has a metric of its own."""
    warnings.warn(text, stacklevel=3)
