"""Run a whole study: choose cells, check arms, run the open cells, and find the finished runs."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from crab_lightning.configuration.files import ConfigError
from crab_lightning.evaluation.sample_losses import read_sample_losses
from crab_lightning.reports.runs import FinishedRun, find_results
from crab_lightning.studies.cells import CellState, Command, set_aside, state_of
from crab_lightning.studies.engines import Engine
from crab_lightning.studies.study import Cell, Study


def chosen_cells(study: Study, patterns: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a study whose names match one of some wildcard patterns.

    Args:
        study: The study.
        patterns: The patterns; without patterns, all cells are returned.

    Raises:
        ConfigError: If a pattern matches no cell.
    """
    cells = study.cells()
    for pattern in patterns:
        if not any(_fits(cell.name, pattern) for cell in cells):
            names = ", ".join(cell.name for cell in cells[:4])
            raise ConfigError(
                f"--cells {pattern}: no cell of {study.name} has such a name; the first are: {names}"
            )
    return [c for c in cells if not patterns or any(_fits(c.name, p) for p in patterns)]


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)  # a name may contain brackets


def other_folders(study: Study) -> list[str]:
    """Return the names of the folders in ``cells/`` that do not belong to a cell of the study."""
    known = {cell.name for cell in study.cells()}
    return sorted(p.name for p in (study.folder / "cells").glob("*/") if p.is_dir() and p.name not in known)


def check_arms(cells: Sequence[Cell], command: Command) -> None:
    """Parse the config of each arm, so that a wrong key is found before any training.

    Args:
        cells: The cells; the config of the first cell of each arm is parsed.
        command: Function that runs ``fit``; it is called with ``--print_config``, so that nothing is trained.

    Raises:
        ConfigError: If a key or a value of an arm is wrong; the message names the arm.
    """
    for cell in {cell.arm: cell for cell in reversed(cells)}.values():
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "arm.yaml"
            path.write_text(yaml.safe_dump(dict(cell.config), allow_unicode=True), encoding="utf-8")
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(said):
                    command(["fit", "--config", str(path), "--print_config"])
            except (SystemExit, ConfigError) as err:
                if isinstance(err, ConfigError) or err.code:
                    what = str(err) if isinstance(err, ConfigError) else said.getvalue()
                    what = what.strip().removeprefix("error: ").replace(f"{path}: ", "")
                    raise ConfigError(f"arm {cell.arm}: {what}") from err


def other_settings(states: Sequence[CellState], *, refuse: bool) -> list[CellState]:
    """Return the cells that were made with other settings.

    Args:
        states: The states of the cells.
        refuse: Whether such a cell is an error.

    Raises:
        ConfigError: If there is such a cell and ``refuse`` is set; the message names the settings in which
            the first such cell differs.
    """
    other = [state for state in states if state.status == "other settings"]
    if other and refuse:
        raise ConfigError(
            f"{len(other)} of {len(states)} cells were made with other settings, first {other[0].cell.name}:"
            f" {other[0].detail}. Give the study another name, or call `study run` with --replace, which"
            " repeats these cells and moves the earlier ones to replaced/"
        )
    return other


def run_study(
    cells: Sequence[Cell], engine: Engine, command: Command, *, replace: bool = False
) -> dict[str, str]:
    """Make those of the cells that are not finished; cells that fail or are damaged do not stop the others.

    Args:
        cells: The chosen cells.
        engine: The engine that runs the cells.
        command: Function that runs ``fit`` and ``test``.
        replace: Whether cells that are damaged or were made with other settings are moved to ``replaced/``
            and made again.

    Returns:
        The errors of the cells that failed in this call or are damaged, by the name of the cell.

    Raises:
        ConfigError: If a cell was made with other settings and ``replace`` is not set.
        CellTakenError: If a cell is to be moved while another process works on it.
    """
    states = [state_of(cell) for cell in cells]
    other = other_settings(states, refuse=not replace)
    damaged = [state for state in states if state.status == "damaged"]
    for state in [*other, *damaged] if replace else []:
        print(f"{state.cell.name}: {state.status}; moved to {set_aside(state.cell)}", flush=True)
    failed = {} if replace else {state.cell.name: state.detail for state in damaged}
    waiting = [s.cell for s in states if s.status not in ("done", "running") and s.cell.name not in failed]
    kept = Counter(s.status for s in states)
    print(
        f"Cells: {len(waiting)} to make, {kept['done']} done, {kept['running']} running elsewhere"
        + (f", {len(failed)} damaged" if failed else ""),
        flush=True,
    )
    ended = 0

    def report(cell: Cell, error: str) -> None:
        nonlocal ended
        ended += 1
        if error:
            failed[cell.name] = error
        state = state_of(cell)
        outcome = f"done in {state.seconds:.1f} s"
        if error:
            outcome = f"failed: {error.splitlines()[0]}"
        elif state.status != "done":
            outcome = "another process works on it"
        print(f"[{ended}/{len(waiting)}] {cell.name}: {outcome}", flush=True)

    if waiting:
        engine(waiting, command, report)
    return failed


class FinishedCells:
    """The finished runs of a study, by arm, regime, dataset and seed.

    The attribute ``states`` has the state of every cell of the study. A finished cell whose answers or losses
    cannot be read has the state ``damaged``. The attribute ``runs`` has the results of each finished cell by
    its name.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.runs: dict[str, FinishedRun] = {}
        self.states = [self._checked(state_of(cell)) for cell in study.cells()]
        self._cells = {
            (c.arm, c.regime, c.datasets, c.seed): c
            for c in (s.cell for s in self.states if s.status == "done")
        }

    def _checked(self, state: CellState) -> CellState:
        """Keep the results of a finished cell; return ``damaged`` if its answers or losses cannot be read."""
        if state.status != "done":
            return state
        remedy = ". Remove the file metrics.json of this cell; `study run` then tests the cell again"
        try:
            run = find_results(state.cell.folder)
            for dataset in run.datasets:
                run.records(dataset)
            remedy = ""
            read_sample_losses(state.cell.folder)
        except ValueError as err:
            return CellState(state.cell, "damaged", f"{err}{remedy}")
        self.runs[state.cell.name] = run
        return state

    def cells(self, arm: str, regime: str, datasets: tuple[str, ...]) -> list[Cell]:
        """Return the finished cells of an arm, a regime and a set of datasets: one for each finished seed."""
        keys = [(arm, regime, datasets, seed) for seed in self.study.seeds]
        return [self._cells[key] for key in keys if key in self._cells]

    def of(self, regime: str, arm: str, dataset: str, seed: int) -> FinishedRun | None:
        """Return the only run of a regime, an arm and a seed that trained on a dataset.

        Returns:
            ``None`` if the run is not finished, or if several cells of the regime train on the dataset, as in
            a regime of pairs.
        """
        groups = [group for group in self.study.regimes.get(regime, ()) if dataset in group]
        if len(groups) != 1:
            return None
        cell = self._cells.get((arm, regime, groups[0], seed))
        return None if cell is None else self.runs[cell.name]
