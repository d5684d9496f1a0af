"""Fixtures that find shared test input; tests that need it skip where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(os.environ.get("CRAB_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _need(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is absent; set CRAB_SHARED to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder with inputs and the values that official code gives for them."""
    return _need(_SHARED / "oracles")


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Data root with real media in the released layout."""
    return _need(_SHARED / "real_clips")
