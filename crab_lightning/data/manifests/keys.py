"""Checks of the data section. The messages name every key as the user wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crab_lightning.data.manifests.layout import layout_of
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec


def chosen_datasets(
    datasets: Mapping[str, DatasetSpec], only: Sequence[str] | None
) -> dict[str, DatasetSpec]:
    """Return the entries of ``data.datasets`` that ``data.only`` names, in the order of the config.

    Raises:
        ValueError: If a name is not a key of ``data.datasets``, or ``only`` is empty.
    """
    if only is None:
        return dict(datasets)
    if unknown := [name for name in only if name not in datasets]:
        raise ValueError(
            f"data.only names {', '.join(map(repr, unknown))}{did_you_mean(unknown[0], datasets)};"
            f" data.datasets has: {', '.join(datasets)}"
        )
    if not only:
        raise ValueError("data.only is empty; name at least one dataset, or leave it out to use all")
    return {name: spec for name, spec in datasets.items() if name in only}


def check_datasets(tasks: Mapping[str, Any], datasets: Mapping[str, DatasetSpec]) -> None:
    """Check every entry of ``data.datasets``, also whether its task exists in ``data.tasks``.

    Raises:
        ValueError: If a key or value is wrong. The message is about the first one.
    """
    if not datasets:
        raise ValueError(
            "data.datasets is empty; give it at least one row, e.g. ave: {task: ..., layout: ave}"
        )
    for name, spec in datasets.items():
        where = f"data.datasets.{name}"
        if not name or "/" in name:
            raise ValueError(
                f"data.datasets has the key '{name}'; a key is used as a file name, so it must not be empty"
                " or contain '/'"
            )
        if name in ("null", "Null", "NULL", "~"):
            raise ValueError(
                f"data.datasets has the key '{name}', which the command line reads as null; use another key"
            )
        if spec.task not in tasks:
            raise ValueError(
                f"{where}.task is '{spec.task}'{did_you_mean(spec.task, tasks)};"
                f" data.tasks has: {', '.join(sorted(tasks)) or 'nothing'}"
            )
        if spec.metrics is not None:
            if not _refusal(tasks[spec.task], replace(spec, metrics=[""])):
                raise ValueError(
                    f"{where}.metrics is {spec.metrics}, and the task '{spec.task}' does not read such names:"
                    " it always has the same metrics. Leave `metrics` out"
                )
            if (said := _refusal(tasks[spec.task], spec)).startswith("metrics "):  # else: unknown classes
                raise ValueError(f"{where}.{said}")
        if not spec.layout and not spec.columns:
            raise ValueError(
                f"{where} has neither layout nor columns; name the row format of its manifest in"
                f" `layout`, or describe the columns in `columns`"
            )
        try:
            layout_of(spec, name)
        except ValueError as err:
            raise ValueError(f"{where}.{err}") from None
        if spec.test is False and spec.test_file is not None:
            raise ValueError(
                f"{where}.test_file is '{spec.test_file}', but {where}.test is false; remove one of them"
            )
        for key, value, least in (
            ("limit", spec.limit, 1),
            ("frames", spec.frames, 1),
            ("size_px", spec.size_px, 1),
            ("allow_missing", spec.allow_missing, 0),
            ("allow_refused", spec.allow_refused, 0),
            ("weight", spec.weight, 0),
        ):
            if value is not None and not least <= value < float("inf"):
                raise ValueError(f"{where}.{key} is {value}; it must be at least {least}")
        if not isinstance(spec.target, str) and not 0 <= spec.target <= 1:
            raise ValueError(
                f"{where}.target is {spec.target}; it must be 'reasoning', 'direct', or the fraction from 0"
                f" to 1 of samples that keep their reasoning"
            )


def _refusal(task: Any, spec: DatasetSpec) -> str:
    """Return the error with which a task refuses the metrics of a dataset, or an empty text."""
    try:
        task.metrics(spec)
    except ValueError as err:
        return str(err)
    return ""


_LEAST = {
    "batch_size": 1,
    "batch_tokens": 1,
    "eval_batch_size": 1,
    "num_workers": 0,
    "prefetch_batches": 1,
    "epoch_size": 1,
    "length_window": 1,
    "val_generate_per_dataset": 0,
}


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Check the numbers of the data section.

    Args:
        settings: The values by key. ``None`` is allowed except for ``val_share`` and ``temperature``.

    Raises:
        ValueError: If a number is out of range. The message is about the first one.
    """
    if not 0 <= (share := settings["val_share"]) < 1:
        raise ValueError(f"data.val_share is {share}; it must be a fraction from 0 to below 1, e.g. 0.05")
    for key, least in _LEAST.items():
        if (value := settings[key]) is not None and value < least:
            raise ValueError(f"data.{key} is {value}; it must be at least {least}")
    if not (temperature := settings["temperature"]) > 0:
        raise ValueError(f"data.temperature is {temperature}; it must be above 0 (1 keeps the weights)")
    for key in ("cache_gb", "load_timeout_s", "train_window_s"):
        if (value := settings[key]) is not None and not 0 < value < float("inf"):
            raise ValueError(f"data.{key} is {value}; it must be above 0, or left out for no bound")
