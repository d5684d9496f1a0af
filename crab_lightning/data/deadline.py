"""A limit on the time that one sample may take to load."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch.utils.data import get_worker_info


class LoadTimeout(ValueError):
    """A sample took too long to load."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Limit the time that the body of a ``with`` statement may take, in two steps.

    After ``seconds``, an alarm signal raises :class:`LoadTimeout` between two calls of the decoder. A single
    call that never returns cannot be interrupted in this way. So after twice the time, a loader worker prints
    where it is and ends, and the run fails instead of waiting forever. The second step is only for loader
    workers; without workers, the main process is never ended.

    Outside the main thread of a process there are no signals, so only the second step works.

    Args:
        seconds: The time in seconds; ``None`` for no limit.

    Raises:
        LoadTimeout: If the body takes longer.
    """
    if seconds is None:
        yield
        return

    def expire(signum: int, frame: FrameType | None) -> None:
        raise LoadTimeout(
            f"took longer than data.load_timeout_s = {seconds:g} s. Convert or remove the file, or raise the "
            "time if the disk is slow"
        )

    in_worker = get_worker_info() is not None
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_worker:
        faulthandler.dump_traceback_later(2 * seconds, exit=True)
    if in_main_thread:
        before = signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if in_main_thread:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if in_worker:
            faulthandler.cancel_dump_traceback_later()
