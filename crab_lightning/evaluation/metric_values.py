"""The values of a task's metrics: how they are computed, and which of them is the primary one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from crab_lightning.metrics import BenchmarkMetric
from crab_lightning.metrics.scale import PERCENT, check_scales, read_scale
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task


def new_metrics(dataset: str, task: Task[Any], spec: DatasetSpec) -> MetricCollection:
    """Return new metrics for a dataset.

    Raises:
        ValueError: If the task's ``metrics`` does not return a ``MetricCollection``, or one has no state.
    """
    made = task.metrics(spec)
    if not isinstance(made, MetricCollection):
        raise ValueError(
            f"data.datasets.{dataset}: {type(task).__name__}.metrics returns a {type(made).__name__}; "
            "it must return a MetricCollection, such as MetricCollection({'error': MyMetric()})"
        )
    for name, metric in made.items():
        if not getattr(metric, "metric_state", None) and not vars(metric).get("_modules"):
            raise ValueError(
                f"data.datasets.{dataset}: the metric {name!r} ({type(metric).__name__}) has no state, so "
                "its values would be lost between processes. Call super().__init__() and add_state (or "
                "add_sum of BenchmarkMetric) in its __init__"
            )
    return made


def refuse_lost_values(dataset: str, metrics: MetricCollection, fresh: MetricCollection) -> None:
    """Refuse metrics that keep a result outside their states, because processes exchange only states.

    Args:
        dataset: Key of the dataset.
        metrics: Metrics that have been updated.
        fresh: New metrics of the same kind.

    Raises:
        ValueError: If an update has changed a tensor, or a number, that is no state.
    """
    for (name, metric), new in zip(metrics.items(copy_state=False), fresh.values(), strict=True):
        for key, first in vars(new).items():
            # Numbers whose names begin with "_" are those of torchmetrics, such as the number of updates.
            kept = isinstance(first, Tensor) or (isinstance(first, float | int) and key[0] != "_")
            if not kept or key in metric.metric_state:
                continue
            before, after = (
                v.tolist() if isinstance(v, Tensor) else v for v in (first, getattr(metric, key))
            )
            if repr(before) != repr(after):
                raise ValueError(
                    f"data.datasets.{dataset}: update changes {key!r} of the metric {name!r}"
                    f" ({type(metric).__name__}), which is no state, so its value would be lost between"
                    " processes. Make it with add_state (or add_sum of BenchmarkMetric)"
                )


def check_metrics(dataset: str, task: Task[Any], spec: DatasetSpec) -> None:
    """Check the metrics of a dataset before a run, which would otherwise end at its first scores.

    Raises:
        ValueError: If ``metrics`` or ``note`` returns something else, a metric states a wrong scale or a unit
            without a direction, or ``headline`` names none of their values.
    """
    metrics = new_metrics(dataset, task, spec)
    if not isinstance(note := task.note(spec), str | None):
        raise ValueError(
            f"data.datasets.{dataset}: {type(task).__name__}.note returns {note!r:.60}; it must return a"
            " text, or None"
        )
    try:
        check_scales(metrics)
        for metric in metrics.values():
            _check_direction(metric)
    except (TypeError, ValueError) as err:
        raise ValueError(f"data.datasets.{dataset}: a metric of the task {spec.task!r}: {err}") from err
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # these values are not exchanged between processes
    try:
        values = computed(metrics, None)
    except Exception:  # some metrics of torchmetrics have no values, and no keys, before the first answer
        return
    check_headline(dataset, task, spec, values)


def _check_direction(metric: Any) -> None:
    unit = getattr(getattr(metric, "scale", None), "unit", PERCENT)
    stating = next(kind for kind in type(metric).__mro__ if "higher_is_better" in vars(kind))
    stated = stating not in (Metric, BenchmarkMetric) or "higher_is_better" in vars(metric)
    if unit not in (PERCENT, "") and metric.scale.higher_is_better and not stated:
        raise ValueError(
            f"{type(metric).__name__} has values in the unit {unit!r}, and does not state which are better."
            " Write higher_is_better = False (for an error, for example) or True into the class"
        )


def check_headline(dataset: str, task: Task[Any], spec: DatasetSpec, values: Mapping[str, Any]) -> str:
    """Return words for the primary metric, after a check that it is one of the values of the metrics.

    Raises:
        ValueError: If it is not.
    """
    headline = task.headline(spec)
    named = f" {headline!r}" if headline else ""
    where = f"data.datasets.{dataset}: the primary metric{named} of the task {spec.task!r}"
    single = [name for name, value in values.items() if not isinstance(value, list)]
    if headline is not None and headline not in single:
        raise ValueError(
            f"{where} is not one of the values of its metrics{did_you_mean(headline, single)}; they are: "
            f"{', '.join(single) or 'none'}. Let {type(task).__name__}.headline return one of them"
        )
    return where


def updates(metrics: MetricCollection) -> int:
    """Return how often the metrics of a collection were updated."""
    return sum(metric.update_count for metric in metrics.values(copy_state=False))


def refuse_skipping(dataset: str, task: Task[Any], sample: Sample, spec: DatasetSpec) -> None:
    """Refuse a task that scores the true answer of a sample, although it has just skipped an unreadable one.

    Raises:
        ValueError: If it does.
    """
    truth = task.truth(sample, spec)
    trial = new_metrics(dataset, task, spec)
    if truth is not None:
        task.update(trial, truth, sample, spec)
    if updates(trial):
        raise ValueError(
            f"data.datasets.{dataset}: {type(task).__name__}.update adds nothing for an answer that cannot be"
            " read (None), so the strict scores would leave it out. Add the score of a wrong answer"
        )


def computed(metrics: Callable[[], Any], device: torch.device | None) -> dict[str, Any]:
    """Return the values of a metric collection as floats and lists; NaN becomes ``None``.

    Raises:
        ValueError: If a value is neither a number nor a tensor.
    """
    if device is not None:
        metrics.to(device)  # type: ignore[attr-defined]
    with warnings.catch_warnings():  # without any readable answer the value is None
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        values: dict[str, Tensor | float] = metrics.compute()  # type: ignore[attr-defined]
    for name, value in values.items():
        if not isinstance(value, Tensor | float | int):
            raise ValueError(f"the metric {name!r} computes {value!r}; it must compute a number or a tensor")
    return {
        name: value.tolist() if isinstance(value, Tensor) and value.numel() > 1 else finite(float(value))
        for name, value in values.items()
    }


def finite(number: float) -> float | None:
    """Return a number, or ``None`` if it is not finite, because JSON has no such number."""
    return number if math.isfinite(number) else None


def headline_share(result: Mapping[str, Any], protocol: str = "strict") -> float | None:
    """Return the primary metric of a dataset, converted to [0, 1] where 1 is best; ``None`` without one.

    ``Scale.share`` converts it. A metric that has no bounded range and no ``counts_as`` gives ``None``.

    Args:
        result: The dataset's entry in ``metrics.json``.
        protocol: ``strict``, ``valid_only``, ``majority`` or ``likelihood``.
    """
    key = result["headline"]
    return None if key is None else read_scale(result, key).share(result.get(protocol, {}).get(key))


def mean_headline(results: Mapping[str, Mapping[str, Any]], protocol: str = "strict") -> float | None:
    """Return the mean of :func:`headline_share` over the datasets that have one; ``None`` if none has."""
    shares = [headline_share(result, protocol) for result in results.values()]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None
