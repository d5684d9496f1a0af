"""The scores of one dataset over all processes: metrics of answers, baseline, counts and losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchmetrics import MetricCollection

from crab_lightning.evaluation.likelihoods import CandidateScore, choice_record, choose
from crab_lightning.evaluation.metric_values import (
    check_headline,
    computed,
    finite,
    new_metrics,
    refuse_lost_values,
    refuse_skipping,
    updates,
)
from crab_lightning.metrics import Calibration
from crab_lightning.metrics.scale import entry_scales
from crab_lightning.structures import ClipWindow, DatasetSpec, Media, Prediction, Sample
from crab_lightning.tasks.base import Task, parse_answer

COUNTS = (
    "scored",
    "from_val",
    "unparsed",
    "unparsed_score",
    "truncated",
    "missing",
    "tokens",
    "loss_sum",
    "loss_tokens",
    "loss_samples",
    "weighed",
    "stitched",
    "beyond",
)
"""Names of the sums that are added over processes, in the order of :meth:`DatasetScores.sums`."""

_ROUNDING = 1e-6
EXPLAINED = (
    "the prompts explained the answer format, and the released prompts do not, so these scores are not "
    "comparable with scores under the released prompts"
)


class DatasetScores:
    """The metrics of one dataset during one pass over a split.

    ``strict`` scores every sample: an answer that is unreadable or missing counts as an empty prediction. An
    answer that was cut off at the token limit is scored like the others, as in the official code, and is
    counted. ``valid_only`` scores only the readable answers, as most published scripts do. ``majority``
    scores the most frequent training answer for every sample of ``strict``. ``likelihood`` scores the
    likeliest candidate for every sample with candidates.

    Args:
        dataset: Key of the dataset.
        task: Task of the dataset.
        spec: The dataset's entry under ``data.datasets``, with classes filled in.
        majority: The constant answer of the baseline; ``None`` for no baseline.

    Raises:
        ValueError: If the task's ``metrics`` does not return a ``MetricCollection``.
    """

    def __init__(self, dataset: str, task: Task[Any], spec: DatasetSpec, majority: Any = None) -> None:
        self.dataset = dataset
        self.task = task
        self.spec = spec
        self.majority_answer = majority
        made = (new_metrics(dataset, task, spec) for _ in range(4))
        self.strict, self.valid_only, self.majority, self.likelihood = made
        self.calibration = Calibration()
        self.candidate_score: CandidateScore = "sum"
        """How the log-probability of an answer is computed from those of its tokens."""
        self.choice_is_answer = False
        """Whether the likeliest candidate is the answer, because the model writes no text."""
        self.folder: Path | None = None
        """Run folder for files of answers, such as masks; ``None`` writes none."""
        self._sums = dict.fromkeys(COUNTS, 0.0)

    def prepare(self, predictions: Sequence[Prediction]) -> None:
        """Let the task prepare several answers in one call, before each is added."""
        pairs = [(parse_answer(self.task, p.text, p.sample, self.spec), p.sample) for p in predictions]
        if self.majority_answer is not None:
            pairs += [(self.majority_answer, p.sample) for p in predictions]
        self.task.prepare(pairs, self.spec)

    def add(self, prediction: Prediction) -> dict[str, Any]:
        """Score one answer and return its record for the prediction file."""
        sample = prediction.sample
        weighed = prediction.candidates
        choice = None
        if weighed is not None:
            choice = choose(self.task, sample, self.spec, weighed, self.candidate_score)
            self.task.update(self.likelihood, choice.answer, sample, self.spec)
            self.calibration.update(torch.tensor([choice.confidence]), torch.tensor([choice.right]))
            self._sums["weighed"] += 1
            if self.choice_is_answer:
                prediction = replace(prediction, text=choice.text)
        answer = parse_answer(self.task, prediction.text, sample, self.spec)
        record = self._scored(answer, prediction)
        if beyond := self.task.beyond(prediction.text, sample):
            record["beyond_clip"] = beyond
            self._sums["beyond"] += len(beyond)
        if choice is not None and weighed is not None:
            record |= choice_record(choice, weighed, self.task.jsonable(choice.answer))
        return record

    def add_windows(
        self, sample: Sample, parts: Sequence[tuple[ClipWindow, Prediction | None]]
    ) -> dict[str, Any]:
        """Score a long clip by the answers about its windows, and return its record.

        Args:
            sample: The whole clip, with its length in ``whole_s``.
            parts: Every window in order, with its answer; ``None`` if it has no answer.
        """
        read, windows = [], []
        for window, prediction in parts:
            said: dict[str, Any] = {"start_s": window.start_s, "end_s": window.end_s, "answer": None}
            answer = None
            if prediction is not None:
                answer = parse_answer(self.task, prediction.text, prediction.sample, self.spec)
                said |= {
                    "answer": prediction.text,
                    "parsed": None if answer is None else self.task.jsonable(answer),
                    "truncated": prediction.truncated,
                }
                if beyond := self.task.beyond(prediction.text, prediction.sample):
                    said["beyond_window"] = beyond
                    self._sums["beyond"] += len(beyond)
            read.append((window, answer))
            windows.append(said)
        given = [prediction for _, prediction in parts if prediction is not None]
        whole = Prediction(
            sample,
            "\n".join(prediction.text for prediction in given),
            sum(prediction.tokens for prediction in given),
            any(prediction.truncated for prediction in given),
        )
        record = self._scored(self.task.stitch(read, sample, self.spec), whole)
        self._sums["stitched"] += 1
        return {**record, "whole_s": sample.whole_s, "windows": windows}

    def _scored(self, answer: Any, prediction: Prediction) -> dict[str, Any]:
        """Score the parsed answer (``None`` if unreadable) of a prediction, and return its record."""
        try:
            return self._record(answer, prediction)
        except Exception as err:
            err.add_note(f"while scoring {prediction.sample.id} of data.datasets.{self.dataset}")
            raise

    def _record(self, answer: Any, prediction: Prediction) -> dict[str, Any]:
        sample = prediction.sample
        truth = self.task.truth(sample, self.spec)
        self._update(answer, prediction.text, sample)
        if answer is not None:
            self.task.update(self.valid_only, answer, sample, self.spec)
            self.task.update_text(self.valid_only, prediction.text, answer, sample, self.spec)
        score = self._checked(self.task.score(answer, sample, self.spec), sample)
        if answer is None:
            self._sums["unparsed"] += 1
            self._sums["unparsed_score"] += score or 0.0
        self._sums["truncated"] += prediction.truncated
        self._sums["tokens"] += prediction.tokens
        return {
            **asked(self.task, sample),
            "reference": sample.reference or sample.target or "",
            "truth": None if truth is None else self.task.jsonable(truth),
            "answer": prediction.text,
            "parsed": None if answer is None else self.task.jsonable(answer),
            "score": score,
            "truncated": prediction.truncated,
            "tokens": prediction.tokens,
        }

    def _checked(self, score: Any, sample: Sample) -> float | None:
        """Return the score of one answer if it is a number from 0 to 1, or ``None``."""
        if score is None:
            return None
        if isinstance(score, Real) and -_ROUNDING <= float(score) <= 1 + _ROUNDING:
            return float(score)
        raise ValueError(
            f"data.datasets.{sample.dataset}: {type(self.task).__name__}.score returns {score!r} for"
            f" {sample.id}; it must return a number from 0 to 1, or None"
        )

    def unscored(self, prediction: Prediction) -> dict[str, Any]:
        """Return the record of an answer without scores."""
        answer = parse_answer(self.task, prediction.text, prediction.sample, self.spec)
        return {
            **asked(self.task, prediction.sample),
            "answer": prediction.text,
            "parsed": None if answer is None else self.task.jsonable(answer),
            "truncated": prediction.truncated,
            "tokens": prediction.tokens,
        }

    def add_missing(self, sample: Sample) -> None:
        """Count a sample that was never answered as wrong."""
        self._update(None, "", sample)
        self._sums["missing"] += 1

    def add_loss(self, sample: Sample, loss_sum: float, tokens: int) -> None:
        """Add one sample's summed token losses (nats) and its number of target tokens."""
        if not math.isfinite(loss_sum) and math.isfinite(self._sums["loss_sum"]):
            rank_zero_warn(
                f"the validation loss of {sample.id} ({sample.dataset}) is {loss_sum}, so this "
                "dataset gets no loss. Check the sample, or compute in a type with a larger range"
            )
        self._sums["loss_sum"] += loss_sum
        self._sums["loss_tokens"] += tokens
        self._sums["loss_samples"] += 1

    def sums(self) -> list[float]:
        """Return the sums named in :data:`COUNTS`, in that order."""
        return [self._sums[name] for name in COUNTS]

    def result(self, sums: list[float], device: torch.device | None) -> dict[str, Any]:
        """Return the results; every process must call this, in the same order of datasets.

        Args:
            sums: The result of :meth:`sums`, added over processes.
            device: Device to which metric states are moved before they are exchanged; ``None`` does not move
                them.

        Returns:
            The dataset's entry in ``metrics.json``. Scores are fractions; ``None`` if nothing was scored.

        Raises:
            ValueError: If the task names a primary metric that its metrics do not have, or a metric cannot be
                computed or keeps a result outside its states.
        """
        total = dict(zip(COUNTS, sums, strict=True))
        counts = {
            name: int(total[name])
            for name in ("scored", "unparsed", "truncated", "missing", "loss_samples", "weighed")
        }
        # Every process has the same sums, so all processes take the same branches below.
        scored = counts["scored"] > 0
        baseline = scored and self.majority_answer is not None
        headline = self.task.headline(self.spec)
        refuse_lost_values(self.dataset, self.strict, new_metrics(self.dataset, self.task, self.spec))
        strict = self._computed(self.strict, device) if scored else {}
        if strict:
            where = check_headline(self.dataset, self.task, self.spec, strict)
            if headline is None or strict[headline] is None:
                number = f"not a number after {counts['scored']} answers"
                found = number if headline else "not named by its `headline`"
                rank_zero_warn(
                    f"{where} is {found}. Until it is, the dataset is not part of the mean, and the choice"
                    " of the best checkpoint does not depend on it"
                )
        notes = [note for note in (self.task.note(self.spec), EXPLAINED * self.task.explained) if note]
        from_val = int(total["from_val"])  # equals "scored" in a test of a dataset without a test file
        more = {"events_beyond_clip": int(total["beyond"])} if total["beyond"] else {}
        if total["stitched"]:
            more["clips_by_window"] = int(total["stitched"])
        return {
            **more,
            "task": self.spec.task,
            "layout": self.spec.layout,
            "splits": [s for s, n in (("val", from_val), ("test", counts["scored"] - from_val)) if n],
            "headline": headline,
            "scales": self._scales() if scored else {},
            "note": "; ".join(notes) or None,
            "strict": strict,
            "valid_only": self._computed(self.valid_only, device) if scored else {},
            "majority": self._computed(self.majority, device) if baseline else {},
            "likelihood": self._computed(self.likelihood, device) if counts["weighed"] else {},
            "calibration": computed(self.calibration, device) if counts["weighed"] else None,
            "majority_answer": self.task.jsonable(self.majority_answer) if baseline else None,
            "counts": counts,
            "unparsed_rate": counts["unparsed"] / counts["scored"] if scored else None,
            # An empty prediction may get points: seconds without an event are right background.
            "unparsed_score": total["unparsed_score"] / counts["unparsed"] if counts["unparsed"] else None,
            "truncated_rate": counts["truncated"] / counts["scored"] if scored else None,
            "answer_tokens": total["tokens"] / counts["scored"] if scored else None,
            "loss": finite(total["loss_sum"] / total["loss_tokens"]) if total["loss_tokens"] else None,
        }

    def _scales(self) -> dict[str, Any]:
        try:
            return entry_scales(self.strict)
        except ValueError as err:
            raise ValueError(f"data.datasets.{self.dataset}: {err}") from err

    def _computed(self, metrics: MetricCollection, device: torch.device | None) -> dict[str, Any]:
        try:
            return computed(metrics, device)
        except ValueError as err:
            raise ValueError(
                f"data.datasets.{self.dataset}: the metrics of the task {self.spec.task!r} cannot be"
                f" computed: {str(err).rstrip('.')}. A metric without enough answers should return"
                " NaN"
            ) from err

    def _update(self, answer: Any, text: str, sample: Sample) -> None:
        """Add an answer, or ``None``, to the strict scores and the baseline, and save files of the answer."""
        before = updates(self.strict) if answer is None else -1
        self.task.update(self.strict, answer, sample, self.spec)
        if answer is None and updates(self.strict) == before:
            refuse_skipping(self.dataset, self.task, sample, self.spec)
        self.task.update_text(self.strict, text, answer, sample, self.spec)
        if self.folder is not None:
            self.task.save(answer, sample, self.spec, self.folder)
        if self.majority_answer is not None:
            constant = self.majority_answer
            if sample.whole_s is not None:  # its times are scaled to the length of the clip
                whole = ClipWindow(sample.id, 0, 0.0, sample.whole_s, sample.whole_s)
                constant = self.task.stitch([(whole, constant)], sample, self.spec)
            self.task.update(self.majority, constant, sample, self.spec)
        self._sums["scored"] += 1
        self._sums["from_val"] += sample.split == "val"


def make_ready(tasks: Mapping[str, Task[Any]], anywhere: Callable[[bool], bool] = bool) -> None:
    """Load what the tasks need for scoring, before the first answer; print a line if it is not available.

    Args:
        tasks: The tasks by name, in the same order on every process.
        anywhere: Function that returns whether a condition is true on any process, because all processes must
            score in the same way.

    Raises:
        OSError: If it cannot be loaded and the task cannot score without it.
        ImportError: If a package is missing and the task cannot score without it.
    """
    for name, task in tasks.items():
        reason = task.ready()
        if anywhere(reason is not None):
            said = task.do_without(reason or "on another process")
            rank_zero_info(f"data.tasks.{name}: {said}")


def asked(task: Task[Any], sample: Sample) -> dict[str, Any]:
    """Return the part of a prediction record that is known before the answer."""
    parts = [f"<{part.value}>" if isinstance(part, Media) else part for part in task.conversation(sample)]
    return {"id": sample.id, "dataset": sample.dataset, "task": sample.task, "prompt": "".join(parts)}


def needs_device() -> bool:
    """Return whether metric states must move to the accelerator, because NCCL exchanges no CPU tensors."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "nccl"


def sum_over_processes(
    trainer: Trainer, rows: list[list[float]], count: int
) -> tuple[list[list[float]], float]:
    """Return sums and a count, each added over all processes; float64 keeps counts exact.

    Args:
        trainer: The trainer, which knows the processes.
        rows: Sums of each dataset, as :meth:`DatasetScores.sums` returns them.
        count: A further number to add.
    """
    flat = torch.tensor([*(v for row in rows for v in row), count], dtype=torch.float64)
    if trainer.world_size > 1:
        flat = flat.to(trainer.strategy.root_device)
        torch.distributed.all_reduce(flat)
    return flat[:-1].view(len(rows), len(COUNTS)).tolist(), float(flat[-1])
