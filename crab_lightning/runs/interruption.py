"""Stores signals that ask a run to stop, until the run can stop without losing anything."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info

_log = logging.getLogger(__name__)
REQUEUE = signal.SIGUSR1  # what Lightning's SLURM environment uses too
LOADER_LOST = getattr(signal, "SIGCHLD", signal.SIGTERM)
"""Stored as received if a process that loads data was killed."""


class StopSignals:
    """Stores SIGINT, SIGTERM, SIGHUP and, under SLURM, SIGUSR1 (requeue the job) until the run asks.

    Lightning may raise or save in the middle of an optimizer step, or on only one of several processes. Here,
    the training loop asks after every step, and all processes get the same answer. A second Ctrl-C stops
    immediately, without saving.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._group: Any = None

    def install(self) -> None:
        """Start to handle the signals. In a thread other than the main thread, this does nothing."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        signals = [signal.SIGINT, signal.SIGTERM, *([REQUEUE] if SLURMEnvironment.detect() else [])]
        # SIGHUP means a lost connection. If it is ignored, as under nohup, it stays ignored.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in signals}
        self.received = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # A group on the CPU, so that the processes need not wait for their devices.
            self._group = dist.new_group(backend="gloo")

    def restore(self) -> None:
        """Restore the earlier signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._group = None

    def asked(self) -> signal.Signals | None:
        """Return a signal that any process has received. Every process must call this in the same step."""
        if self._group is None:
            return self.received
        found = torch.tensor(int(self.received or 0))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return signal.Signals(int(found)) if found else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            rank_zero_info("\nStopping after this step. Ctrl-C again stops immediately, without saving.")


def requeue() -> None:
    """Put this SLURM job into the queue again, which starts it later with the same command line."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        said = "" if done.returncode == 0 else f"exit status {done.returncode}, {done.stderr.strip()}"
    except OSError as err:
        said = str(err)
    if said:
        _log.warning("SLURM did not requeue job %s (%s); submit it again to continue.", job, said)
    else:
        rank_zero_info(f"Job {job} is in the queue again.")
