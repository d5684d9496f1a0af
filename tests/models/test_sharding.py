"""Two processes with half of the weights each learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.sharded_fit import fit


@pytest.mark.ddp
def test_two_sharded_processes_train_as_one(tiny: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.sharded_fit", str(tiny), str(tmp_path)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sharded = json.loads((tmp_path / "seen.json").read_text())
    alone = fit(str(tiny), 1, tmp_path)
    assert sharded["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert sharded["losses"][-1] < sharded["losses"][0]
    assert sharded["share"] <= 0.51
    two, one = (torch.load(tmp_path / f"{n}.ckpt", weights_only=True)["state_dict"] for n in (2, 1))
    assert two.keys() == one.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=1e-3)
