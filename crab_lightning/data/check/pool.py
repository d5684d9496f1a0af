"""Work on files that may crash or hang a decoder: one child process for each worker, killed when need be."""

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
    """Why a job has no result.

    Args:
        kind: ``error`` (an exception that the function did not expect), ``memory`` (it asked for more than it
            may have), ``crash`` (its process died) or ``hang`` (it was killed after its time).
        message: What is known about it.
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
    """Yield every job with its result, in the order in which they end.

    A child that dies or outlives its time is replaced; the others do not notice. Linux counts address space,
    so the memory is what a child may take beyond what it starts with.

    Args:
        function: Called with one job in a child; importable, so that it can travel.
        jobs: What to work on; drawn as children become free.
        workers: Child processes; 0 works in this process, where nothing guards against crashes and hangs.
        timeout_s: Time after which a child that is still on one job is killed.
        memory_bytes: Memory that a job may take.
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
    """One child process and the job it is on."""

    def __init__(self, function: Callable[[Job], Result], memory_bytes: int) -> None:
        self._function, self._memory_bytes = function, memory_bytes
        self._process: Any = None
        self.connection: Connection
        self.job: Job | None = None
        self.began = 0.0

    def start(self, job: Job) -> None:
        """Hand over a job, to a new process if the last one is gone."""
        if self._process is None:
            # A fork has torch and the codecs loaded already; a fresh process would load them for seconds.
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
        """Return what the child answered, or how it died."""
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
        """Stop the process, whatever it does."""
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

    # The parent may have used OpenMP before the fork; its threads do not exist here.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _limit_memory(memory_bytes)
    while True:
        # Other children hold copies of the parent's end, so a killed parent does not show as an end of file.
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
