from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.trees import write_tree
from tests.data.world import write_root


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root of ``tests.data.world``; read-only."""
    return write_root(tmp_path_factory.mktemp("world") / "root")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root of ``tests.data.trees``; read-only."""
    return write_tree(tmp_path_factory.mktemp("tree"))
