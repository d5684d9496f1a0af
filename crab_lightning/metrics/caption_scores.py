"""Corpus scores of captions, on tokens: BLEU, ROUGE-L and CIDEr as in the COCO caption tools.

Texts are tokens joined by single spaces. ``Items`` pairs a candidate with its references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Items = Sequence[tuple[str, Sequence[str]]]
_Ngrams = Counter[tuple[str, ...]]

_ORDER = 4
# Keep ratios defined when a corpus has no n-gram of some length; values of the COCO tools.
_TINY, _SMALL = 1e-15, 1e-9
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0


def _ngrams(words: Sequence[str]) -> _Ngrams:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDER + 1) for i in range(len(words) - n + 1))


def bleu(items: Items) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, in [0, 1]; higher is better.

    N-grams are clipped by the largest count in any reference, the brevity penalty takes the closest reference
    length (the shorter of two). An empty candidate is legal and adds no n-gram.

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
    """ROUGE-L with beta 1.2, mean over items, in [0, 1]; higher is better.

    Precision and recall are the best over the references, taken apart. An empty text counts as one empty
    word, so an empty candidate scores 0 unless a reference is empty too, which scores 1.

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
    """An n-gram count weighted by inverse document frequency, with its norms and its number of bigrams."""

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
        """Mean over n of the clipped cosine, damped by the difference in length."""
        damping = math.e ** (-(float(self.length - reference.length) ** 2) / (2 * _CIDER_SIGMA**2))
        total = 0.0
        for n in range(_ORDER):
            own, other = self.weights[n], reference.weights[n]
            shared = sum(min(w, other[ngram]) * other[ngram] for ngram, w in own.items() if ngram in other)
            norm = self.norms[n] * reference.norms[n]
            total += (shared / norm if norm else 0.0) * damping
        return total / _ORDER


def cider(items: Items) -> float:
    """CIDEr with n = 1 to 4, mean over items, in [0, 10]; higher is better.

    Document frequencies come from the references given here, so the value depends on the whole test set and a
    set of one item scores 0.

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
