"""What a study will cost: its cells, steps and trained parameters, and time from a few measured steps."""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from crab_lightning.configuration.files import merge
from crab_lightning.configuration.sections import data_module
from crab_lightning.data import AVDataModule
from crab_lightning.files import read_json, replace_json
from crab_lightning.reports.tables import PlainTable, to_text
from crab_lightning.structures import Split
from crab_lightning.studies.cells import Command, state_of
from crab_lightning.studies.engines import watched
from crab_lightning.studies.study import Cell, Study

Place = tuple[str, tuple[str, ...]]
"""Arm and datasets of a cell."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_ANSWERS = 8


@dataclass(frozen=True)
class Measured:
    """What a few steps of one arm took.

    Args:
        trained: Number of trained parameters.
        start_s: From the fork of a process to its first step.
        step_s: A training step, the median.
        answer_s: An answer of the untrained model, which often writes to the token limit: an upper bound.
    """

    trained: int
    start_s: float
    step_s: float
    answer_s: float


class StepTimer(Callback):
    """Writes how long training steps and answers took to a JSON file.

    Args:
        path: The file.
        began: Time at which the process was asked for, as ``time.time()`` gives it.
    """

    def __init__(self, path: str, began: float) -> None:
        self.path, self.began = Path(path), began
        self.found: dict[str, Any] = {"steps": [], "answers": []}
        self._from = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the time."""
        self.found.setdefault("start_s", time.time() - self.began)
        self._from = self._from or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a step, loading of its batch included."""
        now = time.perf_counter()
        self.found["steps"].append(now - self._from)
        self._from = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was found."""
        self.found["trained"] = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        self._write()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Take the time."""
        self._from = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Note the time of an answer of the batch."""
        self.found["answers"].append((time.perf_counter() - self._from) / len(batch.samples))
        self._write()

    def _write(self) -> None:
        before = read_json(self.path, "Remove it") if self.path.is_file() else {}
        replace_json(self.path, before | {k: v for k, v in self.found.items() if v})


def measure(cell: Cell, command: Command, steps: int, preload: Sequence[str] = ()) -> Measured:
    """Train a few steps and answer one batch as a cell would, in a process of its own.

    Args:
        cell: The cell.
        command: Runs ``fit`` and ``test``.
        steps: Training steps.
        preload: Modules that are imported before the clock starts, as for the cells of a study.

    Raises:
        ValueError: If the steps fail; the text holds what was printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "times.json"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *preload])
        warm = context.Process(target=time.time)  # starts the server, whose imports are paid once a study
        warm.start()
        warm.join()
        times = {"path": str(out), "began": time.time()}
        timer = {"class_path": f"{__name__}.StepTimer", "init_args": times}
        own: dict[str, Any] = {
            "trainer": {
                "max_epochs": -1, "max_steps": steps, "limit_val_batches": 0, "limit_test_batches": 1,
                "val_check_interval": None, "logger": False, "enable_checkpointing": False,
                "callbacks": [timer],
            },
            "evaluator": {"predictions": False, "print_table": False, "majority": False},
            # A batch of answers of an untrained model takes longest of all.
            "data": {"eval_batch_size": _ANSWERS},
        }  # fmt: skip
        config = merge(dict(cell.config), own)
        (Path(scratch) / "measure.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        log = Path(scratch) / "log"
        process = context.Process(target=watched, args=(_fit_and_test, (scratch, command), 1, None, log))
        process.start()
        process.join()
        if process.exitcode != 0 or not out.is_file():
            raise ValueError(f"the measured steps of {cell.name} failed:\n{log.read_text()[-2000:]}")
        found = json.loads(out.read_text())
    taken = sorted(found["steps"][1:] or found["steps"])
    answers = found.get("answers") or [0.0]
    return Measured(found["trained"], found["start_s"], taken[len(taken) // 2], sum(answers) / len(answers))


def _fit_and_test(scratch: str, command: Command) -> None:
    words = ["--config", f"{scratch}/measure.yaml", "--run.folder", f"{scratch}/run"]
    command(["fit", *words])
    command(["test", *words])


def rows_of(cells: Sequence[Cell]) -> dict[Place, dict[str, int]]:
    """Return how many rows cells train on, are validated on and are tested on, and their training steps.

    The manifests are read once for all cells that differ in their datasets only. Validation rows of datasets
    whose questions show two clips may differ by a few in a cell that does not train on all of them.

    Args:
        cells: The cells.

    Returns:
        Arm and datasets of a cell -> its numbers.
    """
    names = list(dict.fromkeys(name for cell in cells for name in cell.datasets))
    read: dict[str, AVDataModule] = {}
    known: dict[tuple[str, str, str], int] = {}
    found: dict[Place, dict[str, int]] = {}
    for cell in cells:
        if (cell.arm, cell.datasets) in found:
            continue
        section = {**cell.config["data"], "only": names, "order_seed": 0}
        # Which text is learnt changes no row.
        section["datasets"] = {k: {**row, "target": "direct"} for k, row in section["datasets"].items()}
        key = json.dumps(section, sort_keys=True, default=str)
        if key not in read:
            read[key] = data_module(section)
            read[key].setup()
        data = read[key]
        counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
        for split in SPLITS:
            for name in cell.datasets:
                if (key, split, name) not in known:
                    known[key, split, name] = len(data.samples(split, name))
                counts[split] += known[key, split, name]
        trainer = cell.config["trainer"]
        by_steps = trainer["max_steps"] > 0
        epoch = data.epoch_size or counts["train"]
        accumulate = int(trainer.get("accumulate_grad_batches") or 1)
        each = ceil(epoch / data.batch_size / accumulate)
        found[cell.arm, cell.datasets] = {
            **counts,
            "steps": trainer["max_steps"] if by_steps else trainer["max_epochs"] * each,
            "validations": 1 if by_steps else trainer["max_epochs"],
            "batch_size": data.batch_size,
        }
    return found


def print_plan(
    study: Study, cells: Sequence[Cell], command: Command, steps: int, jobs: int, preload: Sequence[str] = ()
) -> None:
    """Print the cells of a study and what they will take; on standard error what is being done.

    Args:
        study: The study.
        cells: The cells that are wanted.
        command: Runs ``fit`` and ``test``.
        steps: Steps to measure in each arm; 0 measures nothing.
        jobs: Cells at a time.
        preload: Modules that are imported once.
    """

    def tell(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    tell(f"Counting the rows of {len(study.datasets)} dataset{'s' * (len(study.datasets) != 1)}")
    rows = rows_of(cells)
    found = {}
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    for number, arm in enumerate(arms if steps else [], 1):
        largest = max((c for c in cells if c.arm == arm), key=lambda c: len(c.datasets))
        tell(f"Arm {arm} ({number} of {len(arms)}): measuring {steps} steps and {_ANSWERS} answers")
        found[arm] = measure(largest, command, steps, preload)
    print(to_text(cell_table(cells, rows, found)))
    states = {cell.name: state_of(cell).status for cell in cells}
    open_cells = [cell for cell in cells if states[cell.name] != "done"]
    print(f"\n{len(cells)} cells, {len(cells) - len(open_cells)} of them done; folder {study.folder}")
    for arm, one in found.items():
        print(
            f"{arm}: {one.trained:,} trained parameters; measured: {one.start_s:.1f} s to start a cell,"
            f" {one.step_s:.3f} s a step, {one.answer_s:.2f} s an answer (at most, of the"
            " untrained model, which writes long ones)"
        )
    if found:
        total = sum(seconds(rows[c.arm, c.datasets], found[c.arm]) for c in open_cells)
        print(
            f"Estimate: {total / 3600:.1f} hours of cells, {total / jobs / 3600:.1f} hours with"
            f" --jobs {jobs} if the jobs do not slow each other down"
        )


def seconds(rows: Mapping[str, int], found: Measured) -> float:
    """Return how long a cell will take: start, steps, validation losses (a third of a step each), answers."""
    validation = rows["validations"] * rows["val"] / rows["batch_size"] * found.step_s / 3
    return 2 * found.start_s + rows["steps"] * found.step_s + validation + rows["test"] * found.answer_s


def cell_table(
    cells: Sequence[Cell], rows: Mapping[Place, Mapping[str, int]], found: Mapping[str, Measured]
) -> PlainTable:
    """Lay out cells, seeds of the same cell in one row."""
    columns = ["arm", "regime", "datasets", "cells", "training rows", "validation rows", "test rows", "steps"]
    table = PlainTable("Cells", [*columns, "minutes each"], left=3)
    groups: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for cell in cells:
        key = (cell.arm, cell.regime, cell.datasets)
        groups[key] = groups.get(key, 0) + 1
    for (arm, regime, datasets), count in groups.items():
        own = rows[arm, datasets]
        minutes = f"{seconds(own, found[arm]) / 60:.1f}" if arm in found else "–"
        names = ", ".join(datasets) if len(datasets) <= 3 else f"{len(datasets)} datasets"
        numbers = [str(count), *(f"{own[key]:,}" for key in ("train", "val", "test", "steps"))]
        table.add([arm, regime, names, *numbers, minutes])
    return table
