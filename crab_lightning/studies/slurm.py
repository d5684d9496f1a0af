"""A study on SLURM: an array job with a task for each cell, and a report job that waits for it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crab_lightning.studies.study import Cell, Study

_HEAD = """#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --output={output}
{options}set -euo pipefail
cd {here}
"""


def submit(
    study: Study, file: str, cells: Sequence[Cell], options: Sequence[str] = (), at_a_time: int | None = None
) -> tuple[str, str]:
    """Write the two job scripts and hand them to ``sbatch``.

    Args:
        study: The study.
        file: Its file, as ``study run`` takes it.
        cells: The cells to make, a task of the array for each.
        options: Options of ``sbatch`` for the array's tasks, e.g. ``--gres=gpu:1``.
        at_a_time: Largest number of tasks that run at a time; no limit when left out.

    Returns:
        The numbers of the array job and of the report job.

    Raises:
        FileNotFoundError: If there is no ``sbatch`` on this machine.
        ValueError: If ``sbatch`` refuses a job; the text is what it said.
    """
    folder = (study.folder / "slurm").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(sys.argv[0]).resolve()))} study"
    where = f"{shlex.quote(file)} --root {shlex.quote(str(study.folder.parent.resolve()))}"
    lines = "".join(f"#SBATCH {option}\n" for option in options)
    here = shlex.quote(str(Path.cwd()))
    names = " ".join(shlex.quote(cell.name) for cell in cells)
    output = shlex.quote(f"{folder}/slurm-%A_%a.out")
    array = folder / "cells.sbatch"
    array.write_text(
        _HEAD.format(name=study.name, output=output, options=lines, here=here)
        + f'cells=({names})\n{command} run {where} --cells "${{cells[$SLURM_ARRAY_TASK_ID]}}"\n'
    )
    report = folder / "report.sbatch"
    report.write_text(
        _HEAD.format(name=f"{study.name}-report", output=output, options="", here=here)
        + f"{command} report {where}\n"
    )
    limit = "" if at_a_time is None else f"%{at_a_time}"
    first = _sbatch(f"--array=0-{len(cells) - 1}{limit}", str(array))
    # afterany: cells that failed are left out of the report, not in its way
    return first, _sbatch(f"--dependency=afterany:{first}", str(report))


def _sbatch(*words: str) -> str:
    """Submit a job and return its number."""
    try:
        done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise FileNotFoundError(
            "there is no sbatch on this machine; submit from a login node of the cluster, or use `study run`"
        ) from err
    if done.returncode:
        raise ValueError(f"sbatch {' '.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().partition(";")[0]
