"""Short forms of benchmarks/faults.py: faults put into real runs."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.ddp
def test_killed_rank_ends_the_other_with_advice_and_one_process_goes_on(
    faults: ModuleType, small: dict[str, Path], tmp_path: Path
) -> None:
    runs = faults.Runs(small["mini"], tmp_path, small["tiny"])
    children = runs.pair("run", "fsdp2")
    runs.wait_for_saves("run")
    os.kill(children[1], signal.SIGKILL)
    ends = [runs.wait(child, 120) for child in children]
    assert ends[1] == -signal.SIGKILL
    assert ends[0] not in (0, None), "the survivor has to notice"
    assert "Another process of this run has ended" in runs.log("run.0")
    saved = runs.state("run")["global_step"]
    alone = runs.fit(runs.folder("run"), f"--trainer.max_steps={saved + 1}", "--data.epoch_size=12")
    assert runs.wait(alone) == 0, runs.log("run")
    assert runs.state("run")["global_step"] == saved + 1


@pytest.mark.slow
@pytest.mark.ddp
def test_nothing_is_lost_by_any_fault(faults: ModuleType, small: dict[str, Path], tmp_path: Path) -> None:
    random.seed(0)
    runs = faults.Runs(small["mini"], tmp_path, small["tiny"])
    found = {
        "training": faults.kill_runs(runs, "training", 3),
        "saving": faults.kill_runs(runs, "saving", 3),
        "testing": faults.kill_tests(runs, 2),
        "full": faults.fill_disk(runs),
        **dict(faults.damage_checkpoints(runs)),
        **{name: what for strategy in ("ddp", "fsdp2") for name, what in faults.kill_ranks(runs, strategy)},
    }
    lost = {name: what[1] for name, what in found.items() if not what[1].startswith(("nothing", "0 of"))}
    assert lost == {"both checkpoints halved": "the run; adapter/ is whole"}
