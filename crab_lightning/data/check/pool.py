"""Works on files in child processes, which are killed and replaced if a file crashes or blocks a decoder."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

GIB = 2**30
_ORPHAN_CHECK_S = 5.0


@dataclass(frozen=True)
class Failure:
    """The reason why a job has no result.

    Args:
        kind: ``error`` (the function raised an exception), ``memory`` (the job needed too much memory),
            ``crash`` (the process ended) or ``hang`` (the process was killed after ``timeout_s``).
        message: Description of the failure.
    """

    kind: str
    message: str


def run_isolated(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    *,
    timeout_s: float = 120.0,
    memory_bytes: int = 4 * GIB,
) -> Iterator[tuple[Job, Result | Failure]]:
    """Yield every job with its result, as soon as the job is finished.

    A child process that ends or takes too long is replaced, and the others continue. Linux limits the address
    space, so the memory limit counts from the size that a child process has at its start.

    Args:
        function: Called with one job in a child process. It must be importable.
        jobs: The jobs, which are taken when a child process is free.
        workers: Number of child processes. With 0, this process works on the jobs, without protection.
        timeout_s: A child process that works longer on one job, in seconds, is killed.
        memory_bytes: Largest memory for one job in bytes.
    """
    if workers == 0:
        for job in jobs:
            yield job, _attempt(function, job)
        return
    pool = [_Child(function, memory_bytes) for _ in range(workers)]
    waiting = deque(pool)
    busy: dict[Connection, _Child[Job, Result]] = {}
    source = iter(jobs)
    try:
        while True:
            while waiting:
                try:
                    job = next(source)
                except StopIteration:
                    break
                child = waiting.popleft()
                child.start(job)
                busy[child.connection] = child
            if not busy:
                return
            nearest = min(child.began for child in busy.values()) + timeout_s - time.monotonic()
            ready = set(wait(list(busy), timeout=max(0.0, nearest)))
            for connection, child in list(busy.items()):
                if connection in ready:
                    result = child.collect()
                elif time.monotonic() - child.began >= timeout_s:
                    result = Failure("hang", f"gave no result within {timeout_s:g} s and was stopped")
                    child.kill()
                else:
                    continue
                del busy[connection]
                waiting.append(child)
                assert child.job is not None
                yield child.job, result
    finally:
        for child in pool:
            child.kill()


class _Child(Generic[Job, Result]):
    """One child process and its present job."""

    def __init__(self, function: Callable[[Job], Result], memory_bytes: int) -> None:
        self._function, self._memory_bytes = function, memory_bytes
        self._process: Any = None
        self.connection: Connection
        self.job: Job | None = None
        self.began = 0.0

    def start(self, job: Job) -> None:
        """Send a job to the process, which is started if there is none."""
        if self._process is None:
            # A fork already has torch and the codecs; a new process would need seconds to load them.
            methods = multiprocessing.get_all_start_methods()
            context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
            self.connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._function, self._memory_bytes, os.getpid()), daemon=True
            )
            self._process.start()
            theirs.close()
        self.job, self.began = job, time.monotonic()
        self.connection.send(job)

    def collect(self) -> Result | Failure:
        """Return the result of the child process, or how the process ended."""
        try:
            result: Result | Failure = self.connection.recv()
            return result
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            self.kill()
            return Failure("crash", f"crashed the process that read it ({how})")

    def kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.join()
        self._process.close()
        self.connection.close()
        self._process = None


def _serve(
    connection: Connection, function: Callable[[Any], Any], memory_bytes: int, parent: int
) -> None:  # pragma: no cover - runs in a child
    import torch

    # The parent may have used OpenMP before the fork, and its threads do not exist in the child.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _limit_memory(memory_bytes)
    while True:
        # Other children have copies of the parent's end of the pipe, so it stays open without the parent.
        while not connection.poll(_ORPHAN_CHECK_S):
            if os.getppid() != parent:
                return
        try:
            job = connection.recv()
        except EOFError:
            return
        result = _attempt(function, job)
        with suppress(BrokenPipeError):
            connection.send(result)


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | Failure:
    try:
        return function(job)
    except MemoryError as err:
        return Failure("memory", f"needs more memory than one file may use ({err})")
    except Exception as err:
        return Failure("error", f"{type(err).__name__}: {err}")


def _limit_memory(more_bytes: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    with open("/proc/self/statm") as file:  # noqa: PTH123 - no file of ours
        held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = held + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
