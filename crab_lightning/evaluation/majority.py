"""The most frequent training answers, the baseline of each dataset."""

from __future__ import annotations

import contextlib
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from crab_lightning.structures import Sample


def majority_answers(data: Any) -> dict[str, Any]:
    """Return the most frequent training answer of each dataset, for the baseline.

    The validation rows, which come from the training file, count too, unless they are tested.

    Args:
        data: A data module.

    Returns:
        Dataset -> answer. A dataset without training rows or true answers is left out.
    """
    rows: dict[str, list[Sample]] = {}
    try:
        for name in data.datasets:
            tested = data.samples("test", name)
            held_out = [] if tested and tested[0].split == "val" else data.samples("val", name)
            rows[name] = [*data.samples("train", name), *held_out]
    except (OSError, ValueError) as err:
        rank_zero_info(f"There is no majority baseline, because the training rows cannot be read ({err})")
        return {}
    answers = {}
    for name, spec in data.datasets.items():
        # Some datasets have no answers that can be counted; their baseline is shown as a dash.
        with contextlib.suppress(ValueError):
            answers[name] = data.tasks[spec.task].majority(rows[name], spec)
    return answers
