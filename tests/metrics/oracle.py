"""Reading of the oracle files: cases by file name, and their run-length masks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

_FOLDER = Path(os.environ.get("CRAB_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "oracles"


def oracle_cases(name: str) -> list[Any]:
    """Return the cases of one file as pytest parameters; a single skipped one where the file is absent."""
    path = _FOLDER / f"{name}.json"
    if not path.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{path} is absent; set CRAB_SHARED"))]
    content = json.loads(path.read_text(encoding="utf-8"))
    shared = {key: value for key, value in content.items() if key != "cases"}
    return [pytest.param({**shared, **case}, id=case["name"]) for case in content["cases"]]


def mask(runs: list[int], shape: list[int]) -> Tensor:
    """Undo run lengths that start with the zeros; bool ``shape``."""
    values = torch.arange(len(runs)) % 2 == 1
    return torch.repeat_interleave(values, torch.tensor(runs)).reshape(shape)


def approx(value: float | None, tolerance: float) -> Any:
    """Expect a value within an absolute tolerance; ``None`` stands for "no result"."""
    return pytest.approx(float("nan") if value is None else value, abs=tolerance, rel=0, nan_ok=True)
