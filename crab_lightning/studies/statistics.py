"""The primary metric of a dataset on any resample of the answers of a run.

A metric that is the mean of the answers' scores needs only these scores, and one matrix product gives its
values on all resamples. Any other metric is computed again from the answers: each answer is given to the
metric once, and the state of the metric after this answer is kept. For a resample, the kept states are added
up (or joined), and the metric is computed from the result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crab_lightning.evaluation.long_clips import recorded_answer
from crab_lightning.metrics.scale import Scale, read_scale
from crab_lightning.reports.runs import FinishedRun

Counts = NDArray[np.float64]
"""How often each of N questions is drawn in each of R resamples, ``(R, N)``."""
Values = NDArray[np.float64]

_EQUAL = 1e-6
_CHUNK = 4_000_000


class Statistic(ABC):
    """A metric as a function of how often each question counts.

    Args:
        ids: Ids of the N questions, in the order of the columns of the counts.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)

    @abstractmethod
    def at(self, counts: Counts) -> Values:
        """Return the values ``(R,)`` of the metric on R resamples with the counts ``(R, N)``."""

    def of(self, ids: Sequence[str]) -> Statistic:
        """Return the same metric on these questions, in this order.

        Raises:
            KeyError: If a question is not one of those of the metric.
        """
        place = {name: i for i, name in enumerate(self.ids)}
        return self._of(ids, [place[name] for name in ids])

    @abstractmethod
    def _of(self, ids: Sequence[str], places: list[int]) -> Statistic: ...

    def value(self) -> float:
        """Return the value of the metric if every question counts once."""
        return float(self.at(np.ones((1, len(self.ids))))[0])


class RatioStatistic(Statistic):
    """A ratio of two sums over the questions, such as a mean of scores or a loss per token.

    Args:
        ids: Ids of the questions.
        parts: The value that each question adds to the numerator.
        weights: The value that each question adds to the denominator; by default 1, which gives a mean.
    """

    def __init__(
        self, ids: Sequence[str], parts: Sequence[float], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(ids)
        self.parts = np.asarray(parts, dtype=np.float64)
        self.weights = np.ones(len(self.ids)) if weights is None else np.asarray(weights, dtype=np.float64)

    @property
    def is_mean(self) -> bool:
        """Whether every question has the weight 1."""
        return bool((self.weights == 1).all())

    def at(self, counts: Counts) -> Values:
        """Return the ratio on each resample; NaN if the denominator is 0."""
        below = counts @ self.weights
        result: Values = np.divide(
            counts @ self.parts, below, out=np.full(len(below), np.nan), where=below > 0
        )
        return result

    def _of(self, ids: Sequence[str], places: list[int]) -> RatioStatistic:
        return RatioStatistic(ids, self.parts[places].tolist(), self.weights[places].tolist())


class MetricStatistic(Statistic):
    """A torchmetrics metric that is computed again from its states after single answers.

    Args:
        ids: Ids of the questions.
        metric: A metric of this package after ``reset``.
        key: Name of the value to use if the metric computes several values.
        states: For each question, the states of the metric after the answer to this question alone.
    """

    def __init__(
        self, ids: Sequence[str], metric: Any, key: str, states: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__(ids)
        self.metric, self.key, self.states = metric, key, list(states)
        names = list(self.states[0]) if self.states else []
        self.sums = [name for name in names if not isinstance(self.states[0][name], list)]
        self.lists = [name for name in names if name not in self.sums]
        self.shapes = {name: self.states[0][name].shape for name in self.sums}
        rows = [[float(v) for name in self.sums for v in s[name].reshape(-1).tolist()] for s in self.states]
        self.matrix = np.asarray(rows, dtype=np.float64).reshape(len(self.states), -1)

    def at(self, counts: Counts) -> Values:
        """Return the metric on each resample."""
        import torch

        totals = torch.from_numpy(counts @ self.matrix)
        values = []
        for row, drawn in zip(totals, counts, strict=True):
            start = 0
            for name in self.sums:
                size = math.prod(self.shapes[name])
                total = row[start : start + size].reshape(self.shapes[name])
                if not (dtype := self.states[0][name].dtype).is_floating_point:
                    total = total.round().to(dtype)
                setattr(self.metric, name, total)
                start += size
            for name in self.lists:
                times = drawn.astype(int)
                joined = [part for s, n in zip(self.states, times, strict=True) for part in s[name] * n]
                setattr(self.metric, name, joined)
            values.append(_value_of(self.metric, self.key))
        return np.asarray(values, dtype=np.float64)

    def _of(self, ids: Sequence[str], places: list[int]) -> MetricStatistic:
        return MetricStatistic(ids, self.metric, self.key, [self.states[i] for i in places])


class CiderStatistic(Statistic):
    """CIDEr of captions that are split into tokens only once.

    Args:
        ids: Ids of the questions.
        items: For each question, the tokens of the answer and of its references.
    """

    def __init__(self, ids: Sequence[str], items: Sequence[Any]) -> None:
        super().__init__(ids)
        self.items = list(items)

    def at(self, counts: Counts) -> Values:
        """Return CIDEr on each resample; NaN for an empty resample."""
        from crab_lightning.metrics.captions import cider

        drawn = [[self.items[i] for i in np.repeat(np.arange(len(row)), row.astype(int))] for row in counts]
        return np.asarray([cider(items) if items else math.nan for items in drawn], dtype=np.float64)

    def _of(self, ids: Sequence[str], places: list[int]) -> CiderStatistic:
        return CiderStatistic(ids, [self.items[i] for i in places])


@dataclass(frozen=True)
class Headline:
    """The primary metric of a run on one dataset.

    Args:
        metric: Name of the metric.
        value: Value of the metric in ``metrics.json``.
        scale: Direction of the metric, and how it is printed.
        statistic: The metric on any resample; ``None`` if it cannot be computed from the answers.
        note: The reason why there is no statistic; empty if there is one.
        task: Key of the task of the dataset.
    """

    metric: str
    value: float
    scale: Scale
    statistic: Statistic | None
    note: str
    task: str


def primary_of(run: FinishedRun, dataset: str) -> tuple[str, float, Scale] | None:
    """Return the name, the value and the scale of a run's primary metric on a dataset.

    Args:
        run: A finished run.
        dataset: Key of the dataset.

    Returns:
        ``None`` if the run was not tested on the dataset, or if the metric has no finite value.
    """
    entry = run.datasets.get(dataset)
    if entry is None or entry["headline"] is None:
        return None
    metric = str(entry["headline"])
    value = entry["strict"].get(metric)
    if value is None or not math.isfinite(value):
        return None
    return metric, float(value), read_scale(entry, metric)


def headline_of(run: FinishedRun, dataset: str) -> Headline | None:
    """Return the primary metric of a run on a dataset, with its statistic.

    Args:
        run: A finished run.
        dataset: Key of the dataset.

    Returns:
        ``None`` under the conditions of :func:`primary_of`.
    """
    primary = primary_of(run, dataset)
    if primary is None:
        return None
    metric, value, scale = primary
    entry = run.datasets[dataset]
    found: Statistic | None = None
    note = ""
    scores = run.scores(dataset)
    records = run.records(dataset)
    if scores and len(scores) == len(records) == entry["counts"]["scored"]:
        mean = RatioStatistic(list(scores), list(scores.values()))
        found = mean if abs(mean.value() - value) < _EQUAL else None
    if found is None and (missing := entry["counts"].get("missing")):
        note = f"{missing} of the questions have no answer in the run {run.name}"
    elif found is None:
        found, note = _recomputed(run, dataset, metric, value, records)
    return Headline(metric, value, scale, found, note, str(entry["task"]))


def loss_of(losses: Mapping[str, tuple[float, int]]) -> RatioStatistic | None:
    """Return the validation loss per target token of one dataset; ``None`` without samples.

    Args:
        losses: For each sample id, the sum of the loss in nats and the number of target tokens.
    """
    if not losses:
        return None
    return RatioStatistic(
        list(losses), [loss for loss, _ in losses.values()], [n for _, n in losses.values()]
    )


def _recomputed(
    run: FinishedRun, dataset: str, metric: str, value: float, records: Sequence[Mapping[str, Any]]
) -> tuple[Statistic | None, str]:
    """Return the metric as a statistic of the answers, or ``None`` and the reason for its absence."""
    if not records:
        return None, f"there are no answers of {dataset} in the run {run.name}"
    try:
        task, spec, samples = _questions(run.folder, dataset)
    except (OSError, ValueError) as err:
        return None, f"the manifests are needed to score resamples, and cannot be read: {err}"
    if getattr(task, "masks", None) is not None:
        found = _without_null(records, samples)
        if found is not None and abs(found.value() - value) < _EQUAL:
            return found, ""
        return None, f"{metric} is computed from masks, which are not made again for resamples"
    collection = task.metrics(spec)
    states: dict[str, list[dict[str, Any]]] = {}
    ids = []
    for record in records:
        sample = samples.get(str(record["id"]))
        if sample is None:
            return None, f"{record['id']} is not in the manifests that the run's config names"
        answer, sample = recorded_answer(record, sample, task, spec)
        collection.reset()
        task.update(collection, answer, sample, spec)
        ids.append(sample.id)
        for name, one in collection.items(copy_state=False):
            states.setdefault(str(name), []).append({k: _copied(getattr(one, k)) for k in one._defaults})
    collection.reset()
    for name, one in collection.items():
        made = _statistic(one, str(name), metric, ids, states[str(name)])
        if made is not None:
            # metrics of other packages add up in float32
            if math.isclose(again := made.value(), value, rel_tol=_EQUAL, abs_tol=_EQUAL):
                return made, ""
            return None, f"{metric} of the answers on disk is {again:.6f}, metrics.json says {value:.6f}"
    return None, f"no metric of the task gives {metric}"


def _statistic(
    metric: Any, name: str, key: str, ids: Sequence[str], states: Sequence[Mapping[str, Any]]
) -> Statistic | None:
    """Return the statistic of a metric; ``None`` if the metric does not compute the value ``key``."""
    from crab_lightning.metrics import CaptionScores

    if isinstance(metric, CaptionScores):
        if key != "cider":
            return None
        import json

        texts = [json.loads(state["lines"][0].numpy().tobytes()) for state in states]
        return CiderStatistic(ids, metric._tokenized(texts))
    made = MetricStatistic(ids, metric, key, states)
    made.at(np.ones((1, len(ids))))
    values = metric.compute()
    return made if (key in values if isinstance(values, Mapping) else name == key) else None


def _value_of(metric: Any, key: str) -> float:
    metric._computed, metric._update_count = None, 1
    found = metric.compute()
    return float(found[key] if isinstance(found, Mapping) else found)


def _copied(state: Any) -> Any:
    return [part.clone() for part in state] if isinstance(state, list) else state.clone()


def _without_null(records: Sequence[Mapping[str, Any]], samples: Mapping[str, Any]) -> Statistic | None:
    """Return the mean score without null questions, as J of Ref-AVS needs it; ``None`` if a score is missing.

    In a null question, the object is absent.
    """
    kept = []
    for record in records:
        sample = samples.get(str(record["id"]))
        null = sample is None or sample.fields.get("subset") == "test_n"
        if record.get("score") is None and not null:
            return None
        kept.append(0.0 if null else 1.0)
    scores = [float(r.get("score") or 0.0) * k for r, k in zip(records, kept, strict=True)]
    return RatioStatistic([str(r["id"]) for r in records], scores, kept)


@lru_cache(maxsize=64)
def _questions(folder: Path, dataset: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return the task, the entry and the test samples by id of a dataset, from the config of a run."""
    from crab_lightning.studies.run_data import data_of

    data = data_of(folder, (dataset,))
    spec = data.datasets[dataset]
    return data.tasks[spec.task], spec, {sample.id: sample for sample in data.samples("test", dataset)}


def drawn_counts(questions: int, resamples: int, rng: np.random.Generator) -> Counts:
    """Return how often each question is drawn with replacement in each resample.

    Args:
        questions: Number of questions; as many are drawn in each resample.
        resamples: Number of resamples.
        rng: Generator of the random numbers.

    Returns:
        The counts ``(resamples, questions)``.
    """
    rows = np.empty((resamples, questions))
    step = max(1, _CHUNK // max(questions, 1))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(0, questions, (count, questions), dtype=np.int64)
        drawn += np.arange(count)[:, None] * questions
        rows[start : start + count] = np.bincount(drawn.ravel(), minlength=count * questions).reshape(
            count, -1
        )
    return rows
