"""``compare``: show runs side by side, with paired intervals and the figures of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crab_lightning.commands.file_arguments import file_to_write
from crab_lightning.commands.help_text import Options, positive, zero_or_more
from crab_lightning.files import replace_text

if TYPE_CHECKING:
    from crab_lightning.reports.runs import FinishedRun

_ROWS = ("Crab+", "Crab")


def run(words: Sequence[str]) -> None:
    """Show the scores of runs side by side.

    Each run is compared with the first one, or with the runs of --against. The difference is computed over
    the samples that both runs answered, with a paired bootstrap interval.

    Raises:
        ValueError: If a run has no results of the split or is given twice, a method is not in the paper's
            tables, or there are fewer than 100 resamples.
    """
    parser = Options("compare", run)
    add, switch = parser.option, parser.switch
    add("runs", "a run folder, or a folder of version_N folders", Path, nargs="+", metavar="RUN")
    add(
        "--against",
        "the run with which all others are compared. Several runs on different datasets count as one run,"
        " so that a run on all datasets can be compared with runs on one dataset each",
        Path,
        nargs="+",
        metavar="RUN",
    )
    add("--split", "split whose results are shown", default="test", choices=["test", "val"])
    add(
        "--protocol",
        "`strict` scores every sample, `valid_only` only the readable answers, `likelihood` the answer with"
        " the highest probability (for runs tested with --evaluator.decoding likelihood or both)",
        default="strict",
        choices=["strict", "valid_only", "likelihood"],
    )
    add("--format", "format of the table", default="table", choices=["table", "markdown", "csv", "latex"])
    switch("--all-metrics", "show every metric, and not only the primary metrics and those in the paper")
    add(
        "--published",
        f"add the figures of these methods from the Crab+ paper, named as in its tables; --published"
        f" alone adds {' '.join(_ROWS)}",
        nargs="*",
        metavar="METHOD",
    )
    add("--out", "file to write the table to (default: the table is printed)", file_to_write)
    add("--seed", "seed of the bootstrap", zero_or_more, 0)
    add("--resamples", "number of resamples of the bootstrap, at least 100", positive, 10_000)
    args = parser.parse_args(words)
    if args.resamples < 100:
        raise ValueError(
            f"--resamples is {args.resamples}; an interval needs at least 100 resamples; 10,000 are better"
        )
    from crab_lightning.reports.runs import JoinedRuns, find_results, is_synthetic
    from crab_lightning.reports.tables import FORMATS
    from crab_lightning.studies.comparison import comparison

    baseline = args.against or []
    found = [find_results(path, args.split) for path in (*baseline, *args.runs)]
    folders = [run.folder.resolve() for run in found]
    if twice := [run.folder for run in found if folders.count(run.folder.resolve()) > 1]:
        raise ValueError(f"{twice[0]} is given twice; a run cannot be compared with itself")
    runs = _named([replace(run, synthetic=is_synthetic(run.folder)) for run in found])
    if len(baseline) > 1:
        name = f"{runs[0].name} and {len(baseline) - 1} more"
        runs = [JoinedRuns(runs[: len(baseline)], name), *runs[len(baseline) :]]
    methods = None if args.published is None else (args.published or list(_ROWS))
    table = comparison(
        runs, args.protocol, methods, all_metrics=args.all_metrics, seed=args.seed, resamples=args.resamples
    )
    if not table.rows:
        remedy = "; `test --evaluator.decoding both` computes likelihoods" * (args.protocol == "likelihood")
        raise ValueError(f"no run has scores for --protocol {args.protocol}{remedy}")
    text = FORMATS[args.format](table)
    if args.out is None:
        print(text)
    else:
        replace_text(args.out, text + "\n")
        print(f"Wrote {args.out}")


def _named(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Return the runs with unique names: runs with the same name get their path as the name."""
    names = [run.name for run in runs]
    return [replace(r, name=str(r.folder)) if names.count(r.name) > 1 else r for r in runs]
