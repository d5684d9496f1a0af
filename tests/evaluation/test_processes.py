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
    alone = results(tmp_path / "one", "0,1,2,3,4")
    assert alone[0]["a"]["counts"]["weighed"] == 4
    assert alone[0]["a"]["calibration"]["confidence"] == pytest.approx(0.6)
    assert results(tmp_path / "two", "/0,1,2,3,4") == alone
    assert results(tmp_path / "three", "4/0,1/2,3") == alone
