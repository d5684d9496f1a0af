"""Faults put into runs: processes killed anywhere, disks full, checkpoints damaged. See faults.py."""

from __future__ import annotations

import math
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from short_runs import Runs, cpu_of_children_s, differing

from crab_lightning.adapters import checkpoint as adapter_files
from crab_lightning.runs.checkpoint_files import damage_of
from crab_lightning.runs.run_folder import ADAPTER, LAST, PREVIOUS

Found = tuple[str, str]


def kill_runs(runs: Runs, where: str, times: int) -> Found:
    """Kill runs until that was done often enough, taking each up again until it ends.

    Args:
        runs: Gives the runs.
        where: ``training`` (at a random moment of the process) or ``saving`` (between two steps of one of its
            saves, drawn at random).
        times: Kills.
    """
    finished = wrong = unreadable = 0
    reached: list[int] = []
    assert runs.whole
    while True:
        name = f"{where}_{finished}"
        folder = runs.folder(name)
        doomed = len(reached) < times
        before = in_save(random.randrange(1, 50)) if doomed and where == "saving" else None
        cpu_s = random.uniform(0, runs.whole_s) if doomed and where == "training" else math.inf
        status = runs.wait(runs.fit(folder, before=before), cpu_s=cpu_s)
        if status in (None, -signal.SIGKILL):
            saved = (folder / LAST).is_file() and damage_of(folder / LAST) is None
            reached.append(runs.state(name)["global_step"] if saved else 0)
            for part in (LAST, PREVIOUS):
                unreadable += (folder / part).is_file() and damage_of(folder / part) is not None
            if (folder / ADAPTER / "adapter.json").is_file():
                adapter_files.read_weights(folder / ADAPTER)  # raises if it is no whole save
            continue
        assert status == 0, runs.log(name)[-3000:]
        wrong += runs.differs(name)
        finished += 1
        if not doomed:
            break
    steps = ", ".join(map(str, sorted(reached)))
    what = (
        f"killed with {steps} of 12 steps saved, each taken up by the same command; {finished} finished so; "
        f"{unreadable} unreadable checkpoints"
    )
    return what, f"{wrong} of {finished} ended in other weights"


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
    before = cpu_of_children_s()
    assert runs.wait(runs.test(kept)) == 0, runs.log("tested")[-3000:]
    whole_s, right = cpu_of_children_s() - before, outputs(kept)
    killed = finished = wrong = 0
    while True:
        run = runs.folder(f"test_{finished}")
        if not run.exists():
            shutil.copytree(folder, run)
        doomed = killed < times
        status = runs.wait(runs.test(run), cpu_s=random.uniform(0, whole_s) if doomed else math.inf)
        if status is None:
            killed += 1
            continue
        assert status == 0, runs.log(run.name)[-3000:]
        wrong += outputs(run) != right
        finished += 1
        if not doomed:
            break
    resumed = sum(runs.log(f"test_{i}").count("of an interrupted test are kept") for i in range(finished))
    what = (
        f"{killed} tests killed, each taken up by the same command, {resumed} times with answers kept; "
        f"{finished} finished so"
    )
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


def stop_runs(runs: Runs) -> Iterator[tuple[str, Found]]:
    """Stop a run in the ways that are not its own fault, each once, and let the same command take it up."""

    def taken_up(name: str, status: int | None, said: str) -> Found:
        assert status not in (0, None), runs.log(name)[-3000:]
        assert said in runs.log(name), runs.log(name)[-3000:]
        saved = runs.state(name)["global_step"]
        assert runs.wait(runs.fit(runs.folder(name))) == 0, runs.log(name)[-3000:]
        what = f'ended by itself with step {saved} saved, saying "{said}"; taken up by the same command'
        return what, "weights differ" if runs.differs(name) else "nothing"

    name = "hangup"
    child = runs.fit(runs.folder(name))
    runs.wait_for_saves(name)
    os.kill(child, signal.SIGHUP)
    yield "SIGHUP, a dropped connection", taken_up(name, runs.wait(child), "Resume with")

    name = "loaders"
    child = runs.fit(runs.folder(name), "--data.num_workers=2")
    runs.wait_for_saves(name)
    for process in children_of(child):
        os.kill(process, signal.SIGKILL)
    yield "SIGKILL to the processes that load data", taken_up(name, runs.wait(child), "which loads data, was")

    name = "spoiled"
    status = runs.wait(runs.fit(runs.folder(name), before=spoil_step))
    yield "a loss that is not a number, step 4", taken_up(name, status, "step 4: the loss is not finite")


def two_at_once(runs: Runs) -> Found:
    """Start a second run into a folder in which one is at work."""
    name = "shared"
    first = runs.fit(runs.folder(name))
    runs.wait_for_saves(name)
    status = runs.wait(runs.fit(runs.folder(name)))
    assert status not in (0, None)
    assert "is in use" in runs.log(name), runs.log(name)[-3000:]
    assert runs.wait(first) == 0, runs.log(name)[-3000:]
    what = "the second is refused, the first process is named; the first ends as if it were alone"
    return what, "weights differ" if runs.differs(name) else "nothing"


def full_from_the_start(runs: Runs) -> Found:
    """Let every write of a run fail, as on a disk without any room."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _near, far = os.pipe()  # its own words are no files
        os.dup2(far, 1)
        os.dup2(far, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    folder = runs.folder("no_room")
    assert runs.wait(runs.fit(folder, before=limited)) not in (0, None)
    left = [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert runs.wait(runs.fit(folder)) == 0, runs.log("no_room")[-3000:]
    what = (
        f"the run ends and leaves {', '.join(left) or 'nothing'}; with room again, the same command does it"
    )
    return what, "weights differ" if runs.differs("no_room") else "nothing"


def spoil_step() -> None:
    """Make the loss of a process's fourth step not a number."""
    from crab_lightning.runs.nonfinite import NonFiniteSteps

    begin = NonFiniteSteps.on_train_batch_start

    def spoiled(self: Any, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        begin(self, trainer, pl_module, batch, batch_idx)
        if trainer.global_step == 3:
            for value in batch.inputs.values():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    value.fill_(math.nan)

    NonFiniteSteps.on_train_batch_start = spoiled  # type: ignore[method-assign]


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


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
        lost = "weights differ" if differing(runs.state(name), whole) else "nothing"
        yield f"{how.name} to rank {victim} of 2, {strategy}", (what, lost)
    alone = runs.folder(f"{strategy}_1_SIGKILL_alone")
    shutil.copytree(runs.folder(f"{strategy}_1_SIGKILL"), alone)
    status = runs.wait(runs.fit(alone, "--trainer.max_epochs=3", "--data.epoch_size=12"))
    assert status == 0, runs.log(alone.name)[-3000:]
    yield f"checkpoint of 2 processes ({strategy}) on 1", ("loaded; trained for an epoch more", "nothing")
