"""``study``: a grid of runs that shows whether tasks help or hurt each other."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import Options, positive, zero_or_more

if TYPE_CHECKING:
    from crab_lightning.studies.study import Study

PRELOAD = (
    "crab_lightning.commands.lightning_cli",
    "crab_lightning.models.native",
    "crab_lightning.processing.native",
)
"""Modules that every cell needs and that take seconds to import."""


def _parser(action: str, about: Callable[..., object]) -> Options:
    made = Options(f"study {action}", about)
    made.option("study", "YAML file of the study, or the name of a file in configs/studies/")
    made.option(
        "--root",
        "folder that contains the study's folder (default: the key root of the study, or studies)",
        Path,
    )
    return made


def _cells(made: Options) -> None:
    made.option(
        "--cells",
        "use only the cells (runs of the study) whose names match a pattern, e.g. 'lora.*.seed0'; a name is"
        " ARM.REGIME[.DATASET].seedN",
        default=[],
        nargs="+",
        metavar="PATTERN",
    )


def _read(args: argparse.Namespace) -> Study:
    from crab_lightning.studies.study import read_study

    return read_study(args.study, root=args.root)


def plan(words: Sequence[str]) -> None:
    """List the cells of a study, which are its single runs, with their steps and trained parameters.

    The time is estimated from a few measured steps. Nothing is written into the study's folder.
    """
    parser = _parser("plan", plan)
    _cells(parser)
    parser.option("--jobs", "number of cells that run at the same time, for the estimate", positive, 1)
    parser.option(
        "--steps", "number of steps to measure in each arm; with 0 nothing is measured", zero_or_more, 4
    )
    args = parser.parse_args(words)
    from crab_lightning.commands import trainer
    from crab_lightning.studies.planning import print_plan
    from crab_lightning.studies.runner import check_arms, chosen_cells

    study = _read(args)
    cells = chosen_cells(study, args.cells)
    check_arms(cells, trainer.run)
    print_plan(study, cells, trainer.run, args.steps, args.jobs, PRELOAD)


def run(words: Sequence[str]) -> None:
    """Train and test the cells of a study, which are its single runs.

    Finished cells are kept. An interrupted cell is continued, and a failed cell is tried again. A cell that
    fails does not stop the others. After an interruption, start the same command again.

    Raises:
        ValueError: If cells failed or are damaged; the text lists them with their errors.
    """
    parser = _parser("run", run)
    _cells(parser)
    add, switch = parser.option, parser.switch
    add("--jobs", "number of cells that run at the same time on this machine", positive, 1)
    add("--threads", "CPU threads of each cell", positive, 1)
    add("--devices", "CUDA devices, one for each job, separated by commas, e.g. 0,1,2,3")
    add("--engine", "where cells run", default="local", choices=["local", "ray"])
    add("--ray-address", "address of a Ray cluster; `auto` uses the cluster of this machine")
    add("--ray-gpus", "number of GPUs that each cell gets from Ray", float, 0.0)
    add("--ray-cpus", "number of CPU cores that each cell gets from Ray", float, 1.0)
    switch(
        "--replace",
        "repeat the cells that are damaged or were made with other settings; the earlier ones are moved to"
        " replaced/",
    )
    args = parser.parse_args(words)
    from crab_lightning.commands import trainer
    from crab_lightning.studies.cells import state_of
    from crab_lightning.studies.engines import engine
    from crab_lightning.studies.runner import check_arms, chosen_cells, run_study

    others = {"local": ("ray_address", "ray_gpus", "ray_cpus"), "ray": ("jobs", "threads", "devices")}
    if given := [n for n in others[args.engine] if getattr(args, n) != parser.get_default(n)]:
        options_given = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--engine {args.engine} does not use {options_given}; remove it or change --engine")
    study = _read(args)
    options: dict[str, Any] = {"jobs": args.jobs, "threads": args.threads, "preload": PRELOAD}
    if args.devices:
        options["devices"] = args.devices.split(",")
    if args.engine == "ray":
        options = {"address": args.ray_address, "gpus": args.ray_gpus, "cpus": args.ray_cpus}
    cells = chosen_cells(study, args.cells)
    check_arms([cell for cell in cells if state_of(cell).status != "done"], trainer.run)
    failed = run_study(cells, engine(args.engine, **options), trainer.run, replace=args.replace)
    if failed:
        rows = "\n".join(f"  {name}: {error.splitlines()[0]}" for name, error in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(cells)} cells failed or are damaged; the file cell.log of a failed cell"
            f" shows its error. The same command tries failed cells again:\n{rows}"
        )
    left = Counter(state_of(cell).status for cell in cells)
    if left["running"]:
        print(f"{left['running']} of the cells are running elsewhere; `study status` shows them")
    print(f"Cells: {study.folder / 'cells'}")


def status(words: Sequence[str]) -> None:
    """Show which runs of a study are finished."""
    parser = _parser("status", status)
    _cells(parser)
    args = parser.parse_args(words)
    from crab_lightning.studies.cells import state_of
    from crab_lightning.studies.runner import chosen_cells, other_folders

    study = _read(args)
    states = [state_of(cell) for cell in chosen_cells(study, args.cells)]
    for state in states:
        first = state.detail.splitlines()[0] if state.detail else ""
        time = f"{state.seconds:.1f} s" if state.status == "done" else ""
        print(f"{state.cell.name:<44} {state.status:<14} {time}{first}".rstrip())
    counts = Counter(state.status for state in states)
    seconds = sum(state.seconds for state in states)
    print(
        f"{', '.join(f'{n} {name}' for name, n in counts.items())}; {seconds / 3600:.2f} hours of cells so"
        " far"
    )
    if others := other_folders(study):
        names = ", ".join(others[:4]) + (" ..." if len(others) > 4 else "")
        print(
            f"{study.folder / 'cells'} has {len(others)} more folders, which belong to no cell of this study:"
            f" {names}. If an arm or a regime has a new name, rename its folders in the same way to keep them"
        )


def report(words: Sequence[str]) -> None:
    """Compare training together with training each dataset alone.

    The report shows the gain of each task, the fraction of datasets that gain and that lose, and the net
    score, with intervals. The command writes tables (CSV, LaTeX, Markdown), pictures (PNG), one HTML page and
    TensorBoard events into report/.

    Raises:
        ValueError: If no cells can be compared yet, or there are fewer than 100 resamples.
    """
    parser = _parser("report", report)
    add = parser.option
    add(
        "--out",
        "folder in which the report is written (default: report/ in the study's folder)",
        folder_to_write,
    )
    add("--resamples", "number of resamples of the bootstrap", positive, 2000)
    add("--seed", "seed of the bootstrap", zero_or_more, 0)
    args = parser.parse_args(words)
    if args.resamples < 100:
        raise ValueError(f"--resamples is {args.resamples}; an interval needs at least 100")
    from crab_lightning.studies.report import write_report

    study = _read(args)
    out = args.out or study.folder / "report"
    text = write_report(study, out, resamples=args.resamples, seed=args.seed)
    print(text)
    print(f"\nWrote {out / 'index.html'}")


def submit(words: Sequence[str]) -> None:
    """Submit a study to SLURM.

    An array job makes the cells that are not finished, and a job after it writes the report. The scripts are
    stored in slurm/ in the study's folder.
    """
    parser = _parser("submit", submit)
    _cells(parser)
    add = parser.option
    add("--engine", "the cluster's scheduler", default="slurm", choices=["slurm"])
    add("--at-a-time", "largest number of cells that run at the same time (default: no limit)", positive)
    add(
        "--sbatch",
        "options of sbatch for each cell, e.g. gres=gpu:1 time=8:00:00",
        default=[],
        nargs="+",
        metavar="OPTION",
    )
    args = parser.parse_args(words)
    from crab_lightning.commands import trainer
    from crab_lightning.studies import engines
    from crab_lightning.studies.cells import state_of
    from crab_lightning.studies.runner import check_arms, chosen_cells, other_settings

    study = _read(args)
    states = [state_of(cell) for cell in chosen_cells(study, args.cells)]
    other_settings(states, refuse=True)
    for state in states:
        if state.status == "damaged":
            print(f"{state.cell.name} is damaged and is left out: {state.detail}")
    cells = [state.cell for state in states if state.status not in ("done", "running", "damaged")]
    if not cells:
        print("Nothing to submit: every cell is done, running or damaged")
        return
    check_arms(cells, trainer.run)
    options = [f"--{option.lstrip('-')}" for option in args.sbatch]
    array, report_job = engines.submit(study, args.study, cells, options, args.at_a_time)
    print(f"Submitted {len(cells)} cells as job {array}, and the report as job {report_job}")
