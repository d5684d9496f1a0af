"""Answers chosen by likelihood: the probabilities of candidates, and their form in prediction files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crab_lightning.structures import CandidateScores, DatasetSpec, Decoding, Sample
from crab_lightning.tasks.base import Task, describe

CandidateScore = Literal["sum", "mean"]


@dataclass(frozen=True)
class Choice:
    """The likeliest candidate answer.

    Args:
        text: Text of the answer, as the model would write it.
        answer: The answer in the form that the task's ``parse`` returns.
        probabilities: Probability of each candidate, in the order of the candidates; the sum is 1.
        right: Whether it is the true answer.
    """

    text: str
    answer: Any
    probabilities: list[float]
    right: bool

    @property
    def confidence(self) -> float:
        """Probability of the chosen answer."""
        return max(self.probabilities)


def choose(
    task: Task[Any], sample: Sample, spec: DatasetSpec, scores: CandidateScores, by: CandidateScore
) -> Choice:
    """Return the likeliest candidate, or the first of several equally likely ones.

    Args:
        task: The task of the sample.
        sample: The sample.
        spec: The dataset's entry.
        scores: Log-probabilities of the candidates.
        by: ``sum`` compares the probabilities of whole answers, ``mean`` the mean log-probability of their
            tokens, which gives short answers no advantage.

    Raises:
        ValueError: If the candidates are not those that the task has now.
    """
    offered = task.candidates(sample, spec) or {}
    if tuple(offered) != scores.texts:
        raise ValueError(
            f"{sample.id}: {len(scores.texts)} candidates were scored ({', '.join(scores.texts[:3])}, ...), "
            f"but the task has {len(offered)} ({', '.join(list(offered)[:3])}, ...). The classes or the"
            f" manifest have changed since then. Run the test again"
        )
    values = [
        log_prob / count if by == "mean" else log_prob
        for log_prob, count in zip(scores.log_probs, scores.tokens, strict=True)
    ]
    shares = _softmax(values)
    text = scores.texts[shares.index(max(shares))]
    answer = offered[text]
    return Choice(text, answer, shares, task.score(answer, sample, spec) == 1)


def choice_record(choice: Choice, scores: CandidateScores, plain: Any) -> dict[str, Any]:
    """Return the part of a prediction record about candidates and their probabilities.

    Args:
        choice: The chosen candidate.
        scores: Log-probabilities of all candidates.
        plain: The chosen answer as JSON values.
    """
    rows = zip(scores.texts, scores.log_probs, scores.tokens, choice.probabilities, strict=True)
    return {
        "choice": plain,
        "choice_right": choice.right,
        "confidence": choice.confidence,
        "candidates": [
            {"text": text, "log_prob": log_prob, "tokens": tokens, "probability": share}
            for text, log_prob, tokens, share in rows
        ],
    }


def scores_of(record: Mapping[str, Any]) -> CandidateScores | None:
    """Return the candidates and log-probabilities of a prediction record; ``None`` if it has none."""
    rows = record.get("candidates")
    if not rows:
        return None
    return CandidateScores(
        tuple(r["text"] for r in rows), tuple(r["log_prob"] for r in rows), tuple(r["tokens"] for r in rows)
    )


def offer_candidates(module: Any, data: Any, decoding: Decoding) -> None:
    """Tell a model how to answer, and give it a function that returns the candidates of a question.

    Args:
        module: The model.
        data: Data module with tasks and datasets.
        decoding: How questions are answered.

    Raises:
        ValueError: If ``decoding`` needs candidates and the model cannot compute their probabilities.
    """
    if not hasattr(module, "candidates"):
        if decoding == "generate":
            return
        raise ValueError(
            f"evaluator.decoding is {decoding!r}, but {type(module).__name__} cannot compute the"
            f" probability of candidate answers; set it to generate"
        )

    def candidates(sample: Sample) -> Sequence[str]:
        spec = data.datasets[sample.dataset]
        task = data.tasks[spec.task]
        offered = task.candidates(sample, spec)
        if not isinstance(offered, Mapping | None) or not all(
            isinstance(text, str) for text in offered or ()
        ):
            raise ValueError(
                f"{describe(sample)}: {type(task).__name__}.candidates returns {offered!r:.60}; it must "
                "return a dictionary with the text of each possible answer and the answer, or None"
            )
        return tuple(offered or ())

    module.decoding, module.candidates = decoding, candidates


def _softmax(values: Sequence[float]) -> list[float]:
    highest = max(values)
    shares = [math.exp(value - highest) for value in values]
    total = sum(shares)
    return [share / total for share in shares]


def likelihood_values(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the values to log for answers chosen by likelihood; empty if there are none."""
    found = {k: v for k, v in result["likelihood"].items() if isinstance(v, float)}
    if (calibration := result["calibration"]) is not None:
        found |= {"accuracy": calibration["accuracy"], "confidence": calibration["confidence"]}
        found["calibration_error"] = calibration["error"]
    return {f"likelihood_{name}": value for name, value in found.items()}
