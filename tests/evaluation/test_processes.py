from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def results(folder: Path, shares: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a test with one process for each share; return its metrics and its prediction files."""
    command = [sys.executable, "-m", "tests.evaluation.ddp_worker", str(folder), shares]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((folder / "metrics.json").read_text())["test"]
    files = {path.name: path.read_bytes() for path in (folder / "predictions").glob("*.jsonl")}
    return metrics["datasets"] | {"mean": metrics["mean"]}, files


@pytest.mark.ddp
def test_unequal_processes_one_of_them_empty_give_the_digits_of_one(tmp_path: Path) -> None:
    masks = [str(i) for i in range(5, 23)]  # neighbours are of other clips, a clip's frames on all processes
    alone = results(tmp_path / "one", ",".join(["0,1,2,3,4", *masks]))
    assert alone[0]["a"]["counts"]["weighed"] == 4
    assert alone[0]["a"]["calibration"]["confidence"] == pytest.approx(0.6)
    for key in ("avsbench_f", "framewise_f", "crabplus_j"):
        assert 0.1 < alone[0]["avs"]["strict"][key] < 1
    assert alone[0]["avs"]["strict"]["avsbench_frames_per_batch"] == 3
    assert 0.1 < alone[0]["ref"]["strict"]["refavs_f"] < 1
    assert alone[0]["ref"]["strict"]["refavs_null_s"] > 0.1
    assert (
        results(tmp_path / "two", f"{','.join(masks[1::2])}/{','.join(['0,1,2,3,4', *masks[::2]])}") == alone
    )
    spread = [masks[i::4] + masks[3::4][i::3] for i in range(3)]
    shares = [",".join([first, *own]) for first, own in zip(["4", "0,1", "2,3"], spread, strict=True)]
    assert results(tmp_path / "three", "/".join(shares)) == alone
