"""Faults put into runs: processes killed anywhere, disks full, checkpoints damaged. See faults.py."""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - before the forks, which then have it
import torch

import crab_lightning.models
from crab_lightning.adapters import checkpoint as adapter_files
from crab_lightning.callbacks.checkpoint_files import damage_of
from crab_lightning.callbacks.run_folder import ADAPTER, LAST, PREVIOUS
from crab_lightning.commands import main as cli

crab_lightning.models.OmniModule  # noqa: B018 - loads transformers

Found = tuple[str, str]
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
        """Time of a run that nothing happens to; it is made now and lies under ``whole``."""
        began = time.monotonic()
        assert self.wait(self.fit(self.folder("whole"))) == 0, self.log("whole")
        return time.monotonic() - began

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
            # A test's capture has put others in the place of these two.
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
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

    def pair(self, name: str, strategy: str) -> list[int]:
        """Start a run of two processes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["--trainer.devices=2", f"--trainer.strategy={strategy}"]
        return [self.fit(self.folder(name), *words, rank=rank, port=port) for rank in (0, 1)]

    def wait_for_saves(self, name: str) -> None:
        """Wait until a run has saved twice."""
        until = time.monotonic() + LONGEST_S
        while not (self.folder(name) / PREVIOUS).is_file() and time.monotonic() < until:
            time.sleep(0.01)

    @staticmethod
    def wait(child: int, longest_s: float = LONGEST_S) -> int | None:
        """Return a process's exit status, negative for a signal; ``None`` if it had to be stopped."""
        until = time.monotonic() + longest_s
        while time.monotonic() < until:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None

    def differs(self, name: str, whole: dict[str, Any] | None = None) -> bool:
        """Tell whether a run ended in another state than the one that was left alone, to the last bit."""
        whole, state = whole or self.whole, self.state(name)
        return not all(same(state[key], whole[key]) for key in DECIDES)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def kill_runs(runs: Runs, where: str, times: int) -> Found:
    """Kill runs until that was done often enough, taking each up again until it ends.

    Args:
        runs: Gives the runs.
        where: ``training`` (at a random moment of the process) or ``saving`` (between two steps of one of its
            saves, drawn at random).
        times: Kills.
    """
    killed = finished = wrong = unreadable = 0
    assert runs.whole
    while True:
        name = f"{where}_{finished}"
        folder = runs.folder(name)
        in_a_save = where == "saving" and killed < times
        longest = LONGEST_S if in_a_save or killed >= times else random.uniform(0.1, 1.2) * runs.whole_s
        child = runs.fit(folder, before=in_save(random.randrange(1, 50)) if in_a_save else None)
        status = runs.wait(child, longest)
        if status in (None, -signal.SIGKILL):
            killed += 1
            for part in (LAST, PREVIOUS):
                unreadable += (folder / part).is_file() and damage_of(folder / part) is not None
            if (folder / ADAPTER / "adapter.json").is_file():
                adapter_files.read_weights(folder / ADAPTER)  # raises if it is no whole save
            continue
        assert status == 0, runs.log(name)[-3000:]
        wrong += runs.differs(name)
        finished += 1
        if killed >= times:
            break
    what = f"{killed} runs killed, each taken up by the same command; {finished} finished so; "
    return f"{what}{unreadable} unreadable checkpoints", f"{wrong} of {finished} ended in other weights"


def in_save(count: int) -> Callable[[], None]:
    """Return what makes a process kill itself at one of the steps of which its saves consist."""

    def install() -> None:
        left = count

        def dying(step: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*args, **kwargs)

            return counted

        whole = torch.save

        def half(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            nonlocal left
            whole(value, path, *args, **kwargs)
            left -= 1
            if left == 0:
                os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202 - torch takes any path
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half  # type: ignore[assignment]
        for name in ("fsync", "replace", "link"):
            setattr(os, name, dying(getattr(os, name)))

    return install


def kill_tests(runs: Runs, times: int) -> Found:
    assert runs.whole
    folder = runs.folder("whole")
    kept = runs.folder("tested")

    def outputs(of: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((of / "predictions").glob("*.jsonl"))}

    shutil.copytree(folder, kept)
    began = time.monotonic()
    assert runs.wait(runs.test(kept)) == 0, runs.log("tested")[-3000:]
    whole_s, right = time.monotonic() - began, outputs(kept)
    killed = finished = wrong = 0
    while True:
        run = runs.folder(f"test_{finished}")
        if not run.exists():
            shutil.copytree(folder, run)
        longest = random.uniform(0.2, 1.1) * whole_s if killed < times else LONGEST_S
        status = runs.wait(runs.test(run), longest)
        if status is None:
            killed += 1
            continue
        assert status == 0, runs.log(run.name)[-3000:]
        wrong += outputs(run) != right
        finished += 1
        if killed >= times:
            break
    what = f"{killed} tests killed, each taken up by the same command; {finished} finished so"
    return what, f"{wrong} of {finished} wrote other answers"


def fill_disk(runs: Runs) -> Found:
    """Limit the size of files so that a checkpoint does not fit: its write fails as on a full disk."""
    name = "full"
    assert runs.whole
    size = (runs.folder("whole") / LAST).stat().st_size

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    stopper = ["--trainer.max_steps=3"]
    assert runs.wait(runs.fit(runs.folder(name), *stopper)) == 0, runs.log(name)
    before = (runs.folder(name) / LAST).read_bytes()
    status = runs.wait(runs.fit(runs.folder(name), before=limited))
    told = [line for line in runs.log(name).splitlines() if "could not be written" in line]
    kept = (runs.folder(name) / LAST).read_bytes() == before
    assert status not in (0, None), runs.log(name)[-3000:]
    assert told, runs.log(name)[-3000:]
    assert kept
    return (
        f'the run ends: "{told[-1].strip()[:160]}..."; the old checkpoint is whole',
        "nothing that was saved",
    )


def damage_checkpoints(runs: Runs) -> Iterator[tuple[str, Found]]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        for _ in range(5):
            data[random.randrange(len(data) // 4, len(data) // 2)] ^= 1 << random.randrange(8)
        path.write_bytes(data)

    def halve(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    for name, harm in (("flipped", flip), ("halved", halve)):
        folder = runs.folder(name)
        child = runs.fit(folder)
        runs.wait_for_saves(name)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        harm(folder / LAST)
        assert runs.wait(runs.fit(folder)) == 0, runs.log(name)[-3000:]
        assert "; going on from" in runs.log(name)
        what = "noticed by checksum; the run goes on from previous.ckpt, with a warning"
        yield (
            f"last.ckpt {name}",
            (what, "weights differ" if runs.differs(name) else "nothing (1 step done again)"),
        )
    folder = runs.folder("both")
    shutil.copytree(runs.folder("whole"), folder)
    for part in (LAST, PREVIOUS):
        halve(folder / part)
    assert runs.wait(runs.fit(folder)) not in (0, None)
    told = next(line for line in runs.log("both").splitlines() if "and so is" in line)
    yield "both checkpoints halved", (f'refused: "{told.strip()[-120:]}"', "the run; adapter/ is whole")


def kill_ranks(runs: Runs, strategy: str) -> Iterator[tuple[str, Found]]:
    def finish(name: str) -> None:
        for child in runs.pair(name, strategy):
            assert runs.wait(child) == 0, runs.log(f"{name}.0")[-3000:] + runs.log(f"{name}.1")[-3000:]

    finish(f"whole_{strategy}")
    whole = runs.state(f"whole_{strategy}")
    for victim, how in ((0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGTERM)):
        name = f"{strategy}_{victim}_{how.name}"
        children = runs.pair(name, strategy)
        runs.wait_for_saves(name)
        time.sleep(random.uniform(0, 0.3))
        os.kill(children[victim], how)
        began = time.monotonic()
        ends = [runs.wait(child, 180) for child in children]
        took = time.monotonic() - began
        saved = runs.state(name)["global_step"]
        said = runs.log(f"{name}.{1 - victim}") + runs.log(f"{name}.{victim}")
        clear = "Another process of this run has ended" in said or "Interrupted after step" in said
        assert None not in ends, f"a process hung after {how.name} of rank {victim}"
        finish(name)
        message = "saying how to go on" if clear else "WITHOUT a clear message"
        what = f"all processes ended within {took:.0f} s, {message}; resumed from step {saved}"
        lost = "weights differ" if runs.differs(name, whole) else "nothing"
        yield f"{how.name} to rank {victim} of 2, {strategy}", (what, lost)
    alone = runs.folder(f"{strategy}_1_SIGKILL_alone")
    shutil.copytree(runs.folder(f"{strategy}_1_SIGKILL"), alone)
    status = runs.wait(runs.fit(alone, "--trainer.max_epochs=3", "--data.epoch_size=12"))
    assert status == 0, runs.log(alone.name)[-3000:]
    yield f"checkpoint of 2 processes ({strategy}) on 1", ("loaded; trained for an epoch more", "nothing")
