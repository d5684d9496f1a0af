"""Which rows need no reasoning: a cheap model answered them rightly and surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crab_lightning.builder.reasoning.settings import Settings
from crab_lightning.evaluation.prediction_files import read_records
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task


def easy_rows(
    settings: Settings, samples: Sequence[Sample], spec: DatasetSpec, task: Task[Any]
) -> frozenset[str]:
    """Return the ids of the rows that a cheap model answered rightly and surely.

    Raises:
        ValueError: If the prediction file lacks a row: whether it is easy is not known.
    """
    assert settings.answers is not None
    path, dataset = settings.answers, samples[0].dataset if samples else ""
    path = path / f"{dataset}.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"--answers: there is no {path}; it holds the direct answers of {dataset}")
    records = {_without_split(record["id"]): record for record in read_records(path)}
    easy = []
    for sample in samples:
        record = records.get(_without_split(sample.id))
        if record is None:
            raise ValueError(
                f"--answers: {path} has no answer to {sample.id} (row {sample.row}). Let the small model"
                f" answer every training row: `test` with --data.datasets.{dataset}.test_file naming the"
                f" training manifest"
            )
        if "choice_right" in record:
            right = bool(record["choice_right"]) and float(record["confidence"]) >= settings.sure
        else:
            answer = task.parse(str(record["answer"]), sample, spec)
            right = answer is not None and answer == task.truth(sample, spec)
        if right:
            easy.append(sample.id)
    return frozenset(easy)


def _without_split(name: str) -> str:
    dataset, _, rest = name.partition("/")
    return f"{dataset}/{rest.partition('/')[2]}"
