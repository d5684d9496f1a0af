"""Short runs to put faults into, and what tells two runs apart."""

from __future__ import annotations

import faulthandler
import math
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - before the forks, which then have it
import torch

import crab_lightning.models
from crab_lightning.commands import main as cli
from crab_lightning.runs.run_folder import LAST, PREVIOUS

crab_lightning.models.OmniModule  # noqa: B018 - loads transformers

DECIDES = ("state_dict", "optimizer_states", "lr_schedulers", "crab_lightning_random", "AVDataModule")
LONGEST_S = 600


class Runs:
    """Short runs in forked processes: 2 epochs of 6 optimizer steps with dropout and a validation.

    Args:
        root: Data root; only read.
        work: Folder for runs and logs.
        tiny: A tiny checkpoint; made in ``work`` when left out.
    """

    def __init__(self, root: Path, work: Path, tiny: Path | None = None) -> None:
        self.root, self.work = root, work
        self.tiny = work / "tiny" if tiny is None else tiny
        if tiny is None:
            cli(["model", "tiny", "--out", str(self.tiny)])

    @cached_property
    def whole_s(self) -> float:
        """CPU time of a run that nothing happens to; it is made now and lies under ``whole``."""
        before = cpu_of_children_s()
        assert self.wait(self.fit(self.folder("whole"))) == 0, self.log("whole")
        return cpu_of_children_s() - before

    @cached_property
    def whole(self) -> dict[str, Any]:
        """The last checkpoint of that run."""
        assert self.whole_s
        return self.state("whole")

    def folder(self, name: str) -> Path:
        """Return a run's folder."""
        return self.work / "runs" / name

    def log(self, name: str) -> str:
        """Return what a run has said so far."""
        path = self.work / "runs" / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def state(self, name: str) -> dict[str, Any]:
        """Return a run's last checkpoint."""
        found: dict[str, Any] = torch.load(self.folder(name) / LAST, weights_only=True)
        return found

    def fit(
        self,
        folder: Path,
        *words: str,
        rank: int = 0,
        port: int = 0,
        before: Callable[[], None] | None = None,
    ) -> int:
        """Start a run, or take it up where it was left; with a port, as one of two processes."""
        options = {
            "data.root": self.root,
            "model.init_args.pretrained": self.tiny,
            "model.init_args.adapter.dropout": 0.1,
            "data.num_workers": 0,
            "data.batch_size": 1,
            "data.epoch_size": 12 if port else 6,
            "data.val_share": 0.3,
            "data.val_generate_per_dataset": 0,
            "trainer.max_epochs": 2,
            "trainer.enable_progress_bar": "false",
            "trainer.callbacks": "[]",
            "evaluator.print_table": "false",
            "checkpoint.every_n_steps": 1,
            "run.folder": folder,
            "only": "ave,ref_avs,a2v",
            "ckpt_path": "auto",
        }
        line = ["fit", "--config", "demo.yaml", *(f"--{k}={v}" for k, v in options.items()), *words]
        return self.start(line, folder, rank, port, before)

    def test(self, folder: Path) -> int:
        """Start the test of a run, or take it up."""
        return self.start(["test", "--ckpt_path", str(folder), "--trainer.enable_progress_bar=false"], folder)

    def start(
        self,
        line: list[str],
        folder: Path,
        rank: int = 0,
        port: int = 0,
        before: Callable[[], None] | None = None,
    ) -> int:
        """Fork a process that runs a command line; return its id."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            # Two ranks write two logs; what one wrote last must not be lost in the other's.
            name = f"{folder.name}.{rank}.log" if port else f"{folder.name}.log"
            log = os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            # A test's capture has put others in the place of these three.
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            warnings.showwarning = lambda text, *_, **__: print(text, file=sys.stderr)
            torch.set_num_threads(1)
            faulthandler.dump_traceback_later(100)
            if port:
                ranks = {
                    "RANK": rank,
                    "LOCAL_RANK": rank,
                    "WORLD_SIZE": 2,
                    "LOCAL_WORLD_SIZE": 2,
                    "GROUP_RANK": 0,
                }
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "faults"}
                os.environ.update({key: str(value) for key, value in (ranks | place).items()})
            if before is not None:
                before()
            status = cli(line)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def pair(self, name: str, strategy: str, *more: str) -> list[int]:
        """Start a run of two processes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["--trainer.devices=2", f"--trainer.strategy={strategy}", *more]
        return [self.fit(self.folder(name), *words, rank=rank, port=port) for rank in (0, 1)]

    def wait_for_saves(self, name: str) -> None:
        """Wait until a run has saved twice."""
        until = time.monotonic() + LONGEST_S
        while not (self.folder(name) / PREVIOUS).is_file() and time.monotonic() < until:
            time.sleep(0.01)

    @staticmethod
    def wait(child: int, longest_s: float = LONGEST_S, cpu_s: float = math.inf) -> int | None:
        """Return a process's exit status, negative for a signal; ``None`` if it had to be stopped.

        Args:
            child: Its id.
            longest_s: It is stopped after this time,
            cpu_s: and after this time on a processor, which other work on the machine does not stretch.
        """
        until = time.monotonic() + longest_s
        while time.monotonic() < until and cpu_of(child) < cpu_s:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return None if status == -signal.SIGKILL else status  # it may have ended just before

    def differs(self, name: str) -> bool:
        """Tell whether a run ended in another state than the one that was left alone, to the last bit."""
        return bool(differing(self.state(name), self.whole))


def cpu_of(pid: int) -> float:
    """Return how long a process was on a processor, in seconds."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_children_s() -> float:
    """Return how long all processes that were waited for were on a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the parts that decide how a run goes on in which two checkpoints differ, in any bit."""
    return [key for key in DECIDES if not same(one[key], other[key])]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
