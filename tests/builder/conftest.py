from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def excerpts() -> Path:
    """Official annotation files, a few rows each."""
    shared = Path(os.environ.get("CRAB_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    folder = shared / "source_annotations"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set CRAB_SHARED to the folder that contains it")
    return folder
