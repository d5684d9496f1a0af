"""A tiny checkpoint, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from crab_lightning.mini import make_tiny_native
from crab_lightning.processing import NativeProcessor


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_native(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def processor(tiny: Path) -> NativeProcessor:
    return NativeProcessor(tiny)
