"""Captioning: BLEU, METEOR, ROUGE-L and CIDEr of a test set, as in the COCO caption tools."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar, get_args

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric
from crab_lightning.metrics.caption_tools import (
    Items,
    Tokenizer,
    choose_tokenizer,
    meteor,
    missing_tool,
    ptb_tokenize,
    python_tokenize,
)
from crab_lightning.metrics.scale import Scale

_Ngrams = Counter[tuple[str, ...]]

_ORDER = 4
# Values of the COCO tools, which avoid 0/0 if a corpus has no n-gram of some length.
_TINY, _SMALL = 1e-15, 1e-9
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0


def _ngrams(words: Sequence[str]) -> _Ngrams:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDER + 1) for i in range(len(words) - n + 1))


def bleu(items: Items) -> list[float]:
    """Return BLEU-1 to BLEU-4 of a corpus, in [0, 1]; higher is better.

    N-gram counts are limited by the largest count in any reference. The brevity penalty uses the closest
    reference length, the shorter one of two equally close ones. A candidate may be empty.

    Args:
        items: At least one candidate with at least one reference.
    """
    right, tried = [0] * _ORDER, [0] * _ORDER
    candidate_words = reference_words = 0
    for candidate, references in items:
        words, others = candidate.split(), [reference.split() for reference in references]
        most: _Ngrams = Counter()
        for other in others:
            most |= _ngrams(other)
        for ngram, count in _ngrams(words).items():
            right[len(ngram) - 1] += min(count, most[ngram])
        for n in range(_ORDER):
            tried[n] += max(0, len(words) - n)
        candidate_words += len(words)
        reference_words += min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    ratio = (candidate_words + _TINY) / (reference_words + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(_ORDER):
        product *= (right[n] + _TINY) / (tried[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def rouge_l(items: Items) -> float:
    """Return ROUGE-L with beta 1.2, the mean over items, in [0, 1]; higher is better.

    The best precision and the best recall over the references are used, also from different references. An
    empty text counts as one empty word. So an empty candidate scores 0, or 1 if a reference is empty too.

    Args:
        items: At least one candidate with at least one reference.
    """
    scores = []
    for candidate, references in items:
        words = candidate.split(" ")
        precision = recall = 0.0
        for reference in references:
            other = reference.split(" ")
            shared = _longest_common_subsequence(words, other)
            precision, recall = max(precision, shared / len(words)), max(recall, shared / len(other))
        below = recall + _ROUGE_BETA**2 * precision
        scores.append((1 + _ROUGE_BETA**2) * precision * recall / below if precision and recall else 0.0)
    return math.fsum(scores) / len(scores)


class _Weighted:
    """The n-grams of a text, weighted by inverse document frequency, with norms and number of bigrams."""

    def __init__(self, words: Sequence[str], documents: Counter[tuple[str, ...]], log_items: float) -> None:
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_ORDER)]
        norms = [0.0] * _ORDER
        self.length = 0
        for ngram, count in _ngrams(words).items():
            n = len(ngram) - 1
            weight = count * (log_items - math.log(max(1.0, documents[ngram])))
            self.weights[n][ngram] = weight
            norms[n] += weight**2
            if n == 1:
                self.length += count
        self.norms = [math.sqrt(norm) for norm in norms]

    def similarity(self, reference: _Weighted) -> float:
        """Return the mean over n of the clipped cosine, reduced by the difference in length."""
        damping = math.e ** (-(float(self.length - reference.length) ** 2) / (2 * _CIDER_SIGMA**2))
        total = 0.0
        for n in range(_ORDER):
            own, other = self.weights[n], reference.weights[n]
            shared = sum(min(w, other[ngram]) * other[ngram] for ngram, w in own.items() if ngram in other)
            norm = self.norms[n] * reference.norms[n]
            total += (shared / norm if norm else 0.0) * damping
        return total / _ORDER


def cider(items: Items) -> float:
    """Return CIDEr with n = 1 to 4, the mean over items, in [0, 10]; higher is better.

    Document frequencies are those of the given references, so the value depends on the whole test set, and a
    set with one item scores 0.

    Args:
        items: At least one candidate with at least one reference.
    """
    documents: Counter[tuple[str, ...]] = Counter()
    for _, references in items:
        documents.update({ngram for reference in references for ngram in _ngrams(reference.split())})
    log_items = math.log(len(items))
    scores = []
    for candidate, references in items:
        own = _Weighted(candidate.split(), documents, log_items)
        similar = [own.similarity(_Weighted(r.split(), documents, log_items)) for r in references]
        scores.append(10.0 * math.fsum(similar) / len(similar))
    return math.fsum(scores) / len(scores)


class CaptionScores(BenchmarkMetric):
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L in [0, 1] and CIDEr in [0, 10]; higher is better.

    Keys: ``bleu_1`` ... ``bleu_4``, ``meteor``, ``rouge_l``, ``cider``. Papers print them times 100. A
    candidate may be empty; it gets low scores. A single item has a CIDEr of 0. Without items, the values are
    NaN.

    METEOR and the PTB tokenizer are Java programs of the package pycocoevalcap, an optional extra. Without
    them, ``meteor`` is NaN, a warning says what is missing, and the other scores are computed. After
    ``compute``, ``tokenizer_used`` is the tokenizer that was used.

    This metric stores all captions, because CIDEr and METEOR need them at the end. So its memory grows with
    the dataset.

    Source: TXH-mercury/VALOR cococaption/pycocoevalcap, the COCO caption tools; checked against
    pycocoevalcap.

    Args:
        tokenizer: ``ptb`` is the published one, and is an error if it cannot run. ``python`` needs no Java
            (:func:`python_tokenize` says where it differs). ``auto`` takes ``ptb`` if it can run, and else
            ``python`` with a warning. ``none`` is for texts that are already tokens joined by spaces.
        with_meteor: Whether to compute METEOR, which takes some seconds and up to 2 GB of memory for Java.

    Raises:
        ValueError: If there is no such tokenizer.
    """

    # CIDEr is at most 10. In a mean over datasets a CIDEr of 1 (100 as printed) and more counts as 1.
    scales: ClassVar[Mapping[str, Scale]] = {"cider": Scale(high=10.0, counts_as=(0.0, 1.0))}

    def __init__(self, tokenizer: Tokenizer = "auto", with_meteor: bool = True) -> None:
        super().__init__()
        if tokenizer not in get_args(Tokenizer):
            raise ValueError(
                f"there is no tokenizer '{tokenizer}'; known tokenizers: {', '.join(get_args(Tokenizer))}"
            )
        self.tokenizer = tokenizer
        self.with_meteor = with_meteor
        self.tokenizer_used: Tokenizer | None = None
        # Processes exchange text as bytes; each item is a JSON list in one line.
        self.add_list("lines", torch.uint8)

    def update(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add N captions.

        Args:
            candidates: One caption for each item.
            references: At least one reference for each item.

        Raises:
            ValueError: If the lengths differ, or an item has no reference.
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
        """Return the scores by key; ``meteor`` only with ``with_meteor``.

        Raises:
            CaptionToolMissing: If ``tokenizer`` is ``ptb`` and cannot run.
        """
        names = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", *["meteor"] * self.with_meteor]
        # Sorted, so that floating-point sums have the same order for any number of processes.
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
                "slightly from published ones. Set tokenizer: python to hide this warning."
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
                f"{missing}. meteor is NaN, but the other caption scores are computed. Set with_meteor: false"
                " to leave it out."
            )
            return float("nan")
        return meteor(items)


@cache
def _warn_once(text: str) -> None:
    """Warn once in a process, although there are many metric objects."""
    warnings.warn(text, stacklevel=3)
