"""The cache as a Ray Data job; most of it needs the extra ``ray``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from crab_lightning.data.cache.build import build_cache
from crab_lightning.data.cache.ray_build import run_on_ray
from crab_lightning.data.cache.store import MediaCache
from tests.data.world import DATASETS

ROWS = {name: DATASETS[name] for name in ("ks", "s4")}


@pytest.mark.skipif(find_spec("ray") is not None, reason="the extra `ray` is installed")
def test_missing_extra_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'crab_lightning\[ray\]'"):
        list(run_on_ray(str, ["a"], 1.0))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra: pip install 'crab_lightning[ray]'")
def test_a_local_ray_fills_the_cache_as_one_process_does(root: Path, tmp_path: Path) -> None:
    alone = build_cache(root, ROWS, tmp_path / "alone")
    spread = build_cache(root, ROWS, tmp_path / "spread", ray=True)
    assert (spread.added, spread.broken) == (alone.added, {})
    again = build_cache(root, ROWS, tmp_path / "spread", ray=True)
    assert (again.added, again.known) == (0, alone.added)
    assert len(MediaCache(tmp_path / "spread")) == len(MediaCache(tmp_path / "alone"))
