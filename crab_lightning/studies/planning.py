"""The cost of a study: cells, steps, trained parameters, and the time estimated from measured steps."""

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
    """The times of a few steps of one arm, in seconds.

    Args:
        trained: Number of trained parameters.
        start_s: Time from the fork of a process to its first training step.
        step_s: Median time of a training step.
        answer_s: Mean time of an answer of the untrained model. This is an upper bound, because an untrained
            model often writes up to the token limit.
    """

    trained: int
    start_s: float
    step_s: float
    answer_s: float


class StepTimer(Callback):
    """Writes the times of training steps and answers to a JSON file.

    Args:
        path: The file.
        began: Time at which the process was requested, as ``time.time()`` returns it.
    """

    def __init__(self, path: str, began: float) -> None:
        self.path, self.began = Path(path), began
        self.found: dict[str, Any] = {"steps": [], "answers": []}
        self._from = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the time of the first step and start the clock."""
        self.found.setdefault("start_s", time.time() - self.began)
        self._from = self._from or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time of a step, including the loading of its batch."""
        now = time.perf_counter()
        self.found["steps"].append(now - self._from)
        self._from = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the times and the number of trained parameters."""
        self.found["trained"] = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        self._write()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Start the clock."""
        self._from = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Note the mean time of an answer of the batch, and write the times."""
        self.found["answers"].append((time.perf_counter() - self._from) / len(batch.samples))
        self._write()

    def _write(self) -> None:
        before = read_json(self.path, "Remove it") if self.path.is_file() else {}
        replace_json(self.path, before | {k: v for k, v in self.found.items() if v})


def measure(cell: Cell, command: Command, steps: int, preload: Sequence[str] = ()) -> Measured:
    """Train a few steps and answer one batch as a cell would, in a separate process.

    Args:
        cell: The cell.
        command: Function that runs ``fit`` and ``test``.
        steps: Number of training steps.
        preload: Names of the modules that are imported before the clock starts, as for the cells of a study.

    Raises:
        ValueError: If the steps fail; the message contains the end of the output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "times.json"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *preload])
        warm = context.Process(target=time.time)  # starts the server, which imports once for the whole study
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
            # A batch of answers of an untrained model takes longer than any other.
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
    """Return the numbers of training, validation and test rows of cells, and of their training steps.

    The manifests are read once for all cells that differ only in their datasets. For datasets whose questions
    show two clips, the number of validation rows may differ slightly from that of a cell that does not train
    on all datasets.

    Args:
        cells: The cells.

    Returns:
        For each arm and set of datasets, ``train``, ``val``, ``test`` (numbers of rows), ``steps``,
        ``validations`` (how often the loss on the validation rows is computed) and ``batch_size``.
    """
    names = list(dict.fromkeys(name for cell in cells for name in cell.datasets))
    read: dict[str, AVDataModule] = {}
    known: dict[tuple[str, str, str], int] = {}
    found: dict[Place, dict[str, int]] = {}
    for cell in cells:
        if (cell.arm, cell.datasets) in found:
            continue
        section = {**cell.config["data"], "only": names, "order_seed": 0}
        # The choice of the target text does not change the rows.
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
    """Print the cells of a study and their estimated time; print the progress to standard error.

    Args:
        study: The study.
        cells: The chosen cells.
        command: Function that runs ``fit`` and ``test``.
        steps: Number of steps to measure in each arm; with 0, nothing is measured.
        jobs: Number of cells that run at the same time.
        preload: Names of the modules that are imported once for all processes.

    Raises:
        ValueError: If the measured steps of an arm fail.
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
    """Return the estimated time of a cell in seconds.

    The estimate is the sum of the starts of ``fit`` and ``test``, the training steps, the validation losses
    (a third of a training step for each batch), and the answers of the test.

    Args:
        rows: Numbers of the cell, as :func:`rows_of` returns them.
        found: The measured times of its arm.
    """
    validation = rows["validations"] * rows["val"] / rows["batch_size"] * found.step_s / 3
    return 2 * found.start_s + rows["steps"] * found.step_s + validation + rows["test"] * found.answer_s


def cell_table(
    cells: Sequence[Cell], rows: Mapping[Place, Mapping[str, int]], found: Mapping[str, Measured]
) -> PlainTable:
    """Return the table of the cells; cells that differ only in their seed share a row.

    Args:
        cells: The cells.
        rows: Numbers of each arm and set of datasets, as :func:`rows_of` returns them.
        found: The measured times of the arms; may be empty.
    """
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
