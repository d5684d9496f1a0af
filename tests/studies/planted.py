"""Cells whose answers are known by construction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from crab_lightning.studies.cells import run_cell
from crab_lightning.studies.study import Cell, Study

Scores = Callable[[Cell, str], Sequence[float]]


def plant(
    study: Study, scores: Scores, losses: Scores | None = None, scales: Mapping[str, object] | None = None
) -> None:
    """Finish every cell of a study with these scores of its answers.

    Args:
        study: The study.
        scores: Cell and dataset -> the score of every answer.
        losses: Cell and dataset -> the loss of every validation sample, each of two target tokens.
        scales: Scale of the metric, where it is no share of which more is better.
    """
    for cell in study.cells():

        def command(words: Sequence[str], cell: Cell = cell) -> None:
            if words[0] == "test":
                _write(cell, scores, losses, scales)

        run_cell(cell, command)


def _write(cell: Cell, scores: Scores, losses: Scores | None, scales: Mapping[str, object] | None) -> None:
    entries = {}
    folder = Path(cell.folder) / "predictions"
    folder.mkdir()
    for dataset in cell.datasets:
        values = list(scores(cell, dataset))
        entries[dataset] = {
            "task": "action_recognition",
            "layout": dataset,
            "headline": "accuracy",
            "strict": {"accuracy": sum(values) / len(values)},
            "scales": {} if scales is None else {"accuracy": dict(scales)},
            "counts": {"scored": len(values)},
        }
        lines = [json.dumps({"id": f"{dataset}/{i}", "score": v}) + "\n" for i, v in enumerate(values)]
        (folder / f"{dataset}.jsonl").write_text("".join(lines))
    (cell.folder / "metrics.json").write_text(json.dumps({"test": {"datasets": entries}}))
    if losses is not None:
        held = {d: {f"{d}/v{i}": [v, 2] for i, v in enumerate(losses(cell, d))} for d in cell.datasets}
        (cell.folder / "sample_losses.json").write_text(json.dumps(held))
