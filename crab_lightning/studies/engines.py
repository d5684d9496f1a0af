"""Where cells run: processes of this machine, tasks of a Ray cluster, or an array job of SLURM."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from crab_lightning.studies.cells import LOG, CellTakenError, Command, fail, run_cell
from crab_lightning.studies.study import Cell, Study

Report = Callable[[Cell, str], None]
"""Told of a cell that ended, with its error or an empty text."""


@dataclass(frozen=True)
class _Running:
    """A cell at work in a process of its own, which sends its error where it fails."""

    process: BaseProcess
    cell: Cell
    device: str | None
    errors: Connection


_LONGEST = 10_000  # characters of an error: the pipe has room for them before anyone reads


class Engine(Protocol):
    """Runs cells; one that fails does not stop the others."""

    def __call__(self, cells: Sequence[Cell], command: Command, report: Report) -> None:
        """Run the cells and tell of each as it ends."""


def run_locally(
    cells: Sequence[Cell],
    command: Command,
    report: Report,
    *,
    jobs: int = 1,
    threads: int = 1,
    preload: Sequence[str] = (),
    devices: Sequence[str] | None = None,
) -> None:
    """Run cells in processes of this machine, several at a time.

    One server process imports what every cell needs, once; each cell is a fork of it, so that starting one
    costs milliseconds and a cell that crashes takes nothing with it. What a cell prints goes to
    ``cell.log`` of its folder.

    Args:
        cells: The cells, in the order in which they start.
        command: Runs a command; has to be a function of a module, since its name travels.
        report: Told of each cell that ends.
        jobs: Cells at a time.
        threads: CPU threads of each cell; the last digits of a result may depend on it, never on ``jobs``.
        preload: Modules that the server imports.
        devices: Indices of CUDA devices, of which each job sees one; left out, every job sees all.

    Raises:
        ValueError: If there are fewer devices than jobs.
    """
    if devices is not None and len(devices) < jobs:
        raise ValueError(
            f"--jobs {jobs} needs {jobs} devices, and --devices names {len(devices)}; name one for each job"
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    free = [(None if devices is None else devices[i]) for i in range(jobs)]
    waiting = list(cells)
    running: dict[int, _Running] = {}
    with _ended_by_signals(), _asked_to_end(running):
        while waiting or running:
            while waiting and free:
                cell, device = waiting.pop(0), free.pop(0)
                errors, told = context.Pipe(duplex=False)
                work = (_run, (cell, command), threads, device, cell.folder / LOG, told)
                process = context.Process(target=watched, args=work, name=cell.name)
                process.start()
                told.close()
                running[process.sentinel] = _Running(process, cell, device, errors)
            ended = multiprocessing.connection.wait(list(running))
            for sentinel in ended:
                over = running.pop(sentinel)  # type: ignore[arg-type]
                over.process.join()
                free.append(over.device)
                report(over.cell, _outcome(over))
                over.process.close()
                over.errors.close()


@contextlib.contextmanager
def _asked_to_end(running: Mapping[int, _Running]) -> Iterator[None]:
    """Ask every running cell once to save and end when the study is stopped, and wait for them."""
    try:
        yield
    except BaseException:
        names = [left.cell.name for left in running.values()]
        if names:
            print(f"Stopping. These cells finish their step, save and end: {', '.join(names)}", flush=True)
        for left in running.values():
            left.process.terminate()
        for left in running.values():
            left.process.join()
        raise


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise, as Ctrl-C does; by default they would leave the cells running alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it is to stay ignored
        signals.append(signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(over: _Running) -> str:
    """Return the error of a cell whose process has ended; empty when it went well."""
    status = over.process.exitcode
    if status == 0:
        return ""
    error = ""
    with contextlib.suppress(EOFError):  # it ended without a word
        error = over.errors.recv() if over.errors.poll() else ""
    if status is not None and status < 0:
        error = f"its process was ended by signal {-status}; with signal 9 most often for lack of memory"
        fail(over.cell, error)
    return error or f"its process ended with status {status}; see {over.cell.folder / LOG}"


def _said(err: BaseException) -> str:
    """Return an error as it is listed."""
    return f"{type(err).__name__}: {err}"


def _run(cell: Cell, command: Command) -> None:
    """Run a cell, unless another study command has begun it since the list of cells was made."""
    with contextlib.suppress(CellTakenError):
        run_cell(cell, command)


def watched(
    work: Callable[..., None],
    args: tuple[Any, ...],
    threads: int,
    device: str | None,
    log_file: Path,
    told: Connection | None = None,
) -> None:
    """Do some work in this process, everything that it prints in a file; end with status 1 where it fails.

    Args:
        work: The work.
        args: Its arguments.
        threads: CPU threads.
        device: The CUDA device that it sees; ``None`` for all.
        log_file: The file, which is written on.
        told: Where the error is sent to: a full disk has no place for it.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches the study alone, which then asks every cell once to save and end
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = io.TextIOWrapper(
            os.fdopen(1, "wb", 0), encoding="utf-8", write_through=True
        )
        if "torch" in sys.modules:  # it was imported, with another number, by the server
            sys.modules["torch"].set_num_threads(threads)
        work(*args)
    except BaseException as err:
        if told is not None and not isinstance(err, SystemExit):
            with contextlib.suppress(OSError):  # the study itself is gone
                told.send(_said(err)[:_LONGEST])
        with contextlib.suppress(OSError):
            print(_said(err), file=sys.stderr)
        sys.exit(1)


def run_on_ray(
    cells: Sequence[Cell],
    command: Command,
    report: Report,
    *,
    address: str | None = None,
    gpus: float = 0.0,
    cpus: float = 1.0,
) -> None:
    """Run cells as tasks of a Ray cluster; the study's folder has to lie on a disk that all nodes share.

    Args:
        cells: The cells.
        command: Runs a command.
        report: Told of each cell that ends.
        address: Address of the cluster, ``auto`` for the one that this machine belongs to; a local Ray is
            started when left out.
        gpus: GPUs that each cell asks for.
        cpus: CPU cores that each cell asks for.

    Raises:
        ImportError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as err:
        raise ImportError("--engine ray needs the package ray: pip install 'crab_lightning[ray]'") from err
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        # One worker process runs cell after cell and so imports once; a crash costs it alone.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_ray_cell)
        waiting = {task.remote(cell, command, str(os.getcwd())): cell for cell in cells}  # noqa: PTH109
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(done)
            try:
                error = ray.get(done)
            except ray.exceptions.RayError as err:
                error = f"its Ray worker ended: {err}"
                fail(cell, error)
            report(cell, error)
    finally:
        if started:
            ray.shutdown()


def _ray_cell(cell: Cell, command: Command, folder: str) -> str:
    """Run one cell in a Ray worker; return its error, or an empty text."""
    os.chdir(folder)
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (
        (cell.folder / LOG).open("a", buffering=1, encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            _run(cell, command)
        except BaseException as err:
            return _said(err)
    return ""


def engine(name: Literal["local", "ray"], **options: Any) -> Engine:
    """Return an engine with its options set."""
    kinds: dict[str, Any] = {"local": run_locally, "ray": run_on_ray}
    return partial(kinds[name], **options)


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
