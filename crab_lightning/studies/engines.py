"""Engines that run cells: processes of this machine, tasks of a Ray cluster, or an array job of SLURM."""

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
"""A function that is called with each cell that has ended, and with its error or an empty text."""


@dataclass(frozen=True)
class _Running:
    """A cell that runs in a separate process, which sends its error on a connection if it fails."""

    process: BaseProcess
    cell: Cell
    device: str | None
    errors: Connection


_LONGEST = 10_000  # characters of an error: as many as the pipe can hold before it is read


class Engine(Protocol):
    """A function that runs cells; a cell that fails does not stop the others."""

    def __call__(self, cells: Sequence[Cell], command: Command, report: Report) -> None:
        """Run the cells, and call ``report`` for each cell when it ends."""


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

    One server process imports the modules that every cell needs. Each cell is a fork of the server: it starts
    in milliseconds, and if it crashes, the other cells go on. The output of a cell is written to ``cell.log``
    in its folder.

    Args:
        cells: The cells, in the order in which they start.
        command: Function that runs a command. It has to be a function of a module, so that it can be pickled.
        report: Function that is called for each cell that has ended.
        jobs: Number of cells that run at the same time.
        threads: Number of CPU threads of each cell. The last digits of a result may depend on this number,
            but never on ``jobs``.
        preload: Names of the modules that the server imports.
        devices: Indices of CUDA devices; each job sees one of them. By default, every job sees all devices.

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
    """When the study is stopped, ask every running cell to save and end, and wait for all of them."""
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
    """Let SIGTERM and SIGHUP raise SystemExit; by default, they would leave the cells running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup, the signal stays ignored
        signals.append(signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(over: _Running) -> str:
    """Return the error of a cell whose process has ended; empty if there was none."""
    status = over.process.exitcode
    if status == 0:
        return ""
    error = ""
    with contextlib.suppress(EOFError):  # the process ended without sending its error
        error = over.errors.recv() if over.errors.poll() else ""
    if status is not None and status < 0:
        error = f"its process was ended by signal {-status}; signal 9 usually means a lack of memory"
        fail(over.cell, error)
    return error or f"its process ended with status {status}; see {over.cell.folder / LOG}"


def _said(err: BaseException) -> str:
    """Return the class name and the message of an error."""
    return f"{type(err).__name__}: {err}"


def _run(cell: Cell, command: Command) -> None:
    """Run a cell, unless another study command has started it in the meantime."""
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
    """Call a function in this process with its output in a file; exit with status 1 if the function fails.

    Args:
        work: The function.
        args: Arguments of the function.
        threads: Number of CPU threads.
        device: Index of the CUDA device that the process sees; ``None`` for all devices.
        log_file: The file, to which the output is appended.
        told: Connection on which the error is sent; by default, the error is only written to the file, which
            is not possible on a full disk.

    Raises:
        SystemExit: If the function fails; with status 1.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches only the study, which then asks every cell once to save and end
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
        if "torch" in sys.modules:  # the server has imported torch with another number of threads
            sys.modules["torch"].set_num_threads(threads)
        work(*args)
    except BaseException as err:
        if told is not None and not isinstance(err, SystemExit):
            with contextlib.suppress(OSError):  # the process of the study has ended
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
    """Run cells as tasks of a Ray cluster; all nodes have to see the folder of the study on a shared disk.

    Args:
        cells: The cells.
        command: Function that runs a command.
        report: Function that is called for each cell that has ended.
        address: Address of the cluster; ``auto`` for the cluster to which this machine belongs. By default, a
            local Ray is started.
        gpus: Number of GPUs that each cell asks for.
        cpus: Number of CPU cores that each cell asks for.

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
        # One worker process runs many cells, so that it imports once; a crash ends only this worker.
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
    """Run one cell in a Ray worker and return its error, or an empty text."""
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
    """Return an engine with its options set.

    Args:
        name: ``local`` or ``ray``.
        options: Keyword arguments of :func:`run_locally` or :func:`run_on_ray`.
    """
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
    """Write the two job scripts of a study and submit them with ``sbatch``.

    Args:
        study: The study.
        file: Path or name of the study's file, as ``study run`` takes it.
        cells: The cells to make; each is a task of the array job.
        options: Options of ``sbatch`` for the tasks of the array job, e.g. ``--gres=gpu:1``.
        at_a_time: Largest number of tasks that run at the same time; by default, there is no limit.

    Returns:
        The numbers of the array job and of the report job, which starts after the array job.

    Raises:
        FileNotFoundError: If there is no ``sbatch`` on this machine.
        ValueError: If ``sbatch`` refuses a job; the message contains the output of ``sbatch``.
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
    # afterany: the report is also written if cells have failed, and leaves these cells out
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
