"""Prints the result table of the README from demo runs with different seeds, and their mean scores.

python benchmarks/readme_table.py runs/demo/version_0 runs/demo/version_1 runs/demo/version_2

Datasets without a released test file are marked with ``*``; the means are over the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crab_lightning.evaluation.metric_values import mean_headline
from crab_lightning.mini.world.datasets import DATASETS
from crab_lightning.reports.runs import find_results

_MASKS = "crabplus"
BOUNDS = ("floor", "ceiling")
"""Bounds of the scores of masks; those of the first run are shown."""


def _joined(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def _percent(entry: dict[str, Any], part: str, key: str) -> str:
    value = (entry.get(part) or {}).get(key)
    return "" if value is None else f"{100 * value:.1f}"


def table(runs: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Return the table in Markdown: a row for each dataset, with the scores of all runs.

    Args:
        runs: For each run, the entries of its datasets in ``metrics.json``.
    """
    seeds = " / ".join(str(seed) for seed in range(len(runs)))
    lines = [
        f"| dataset | metric | I-LoRA, seeds {seeds} | majority | floor / ceiling | unreadable |",
        "|---|---|---|---|---|---|",
    ]
    for name, first in runs[0].items():
        key, entries = str(first["headline"]), [run[name] for run in runs]
        scores = " / ".join(_percent(entry, "strict", key) for entry in entries)
        bounds = ""
        if key.startswith(_MASKS):
            found = [_percent(first, "strict", key.replace("_j", f"_{bound}_j")) for bound in BOUNDS]
            bounds = " / ".join(found)
        unreadable = _joined([f"{100 * (entry['unparsed_rate'] or 0):.0f}" for entry in entries])
        shown = f"`{name}`" if DATASETS[name].test else f"`{name}` *"
        majority = _percent(first, "majority", key)
        lines.append(f"| {shown} | `{key}` | {scores} | {majority} | {bounds} | {unreadable} % |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="tested run folders, in the order of their seeds")
    runs = [find_results(path, "test").datasets for path in parser.parse_args().runs]
    print(table(runs))
    for number, run in enumerate(runs):
        tested = {name: entry for name, entry in run.items() if DATASETS[name].test}
        mean, majority = (mean_headline(tested, part) for part in ("strict", "majority"))
        print(f"\nSeed {number}: mean {100 * (mean or 0):.1f}, majority {100 * (majority or 0):.1f}")


if __name__ == "__main__":
    main()
