from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.data.loader import LoaderProcessError, _check_open_files, _taken_ahead


def batches(taken: list[threading.Event], broken: int | None = None) -> Iterator[Any]:
    for number, event in enumerate(taken):
        if number == broken:
            raise ValueError("broken batch")
        event.set()
        yield number


def test_next_batch_is_taken_over_while_one_is_in_use() -> None:
    taken = [threading.Event() for _ in range(3)]
    ahead: Any = _taken_ahead(batches(taken))
    assert next(ahead) == 0
    assert taken[1].wait(10)  # nobody has asked for it yet
    assert not taken[2].is_set()
    assert list(ahead) == [1, 2]


def test_broken_batch_raises_where_it_is_asked_for() -> None:
    ahead: Any = _taken_ahead(batches([threading.Event() for _ in range(3)], broken=1))
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="broken batch"):
        next(ahead)


def test_no_thread_outlives_an_epoch_that_is_left_early() -> None:
    before = threading.active_count()
    ahead: Any = _taken_ahead(batches([threading.Event() for _ in range(3)]))
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_too_few_open_files_are_refused_at_once_with_the_remedy(tmp_path: Path) -> None:
    said, child = tmp_path / "said", os.fork()
    if child == 0:  # pragma: no cover - its limits are not to be ours
        os.closerange(3, 4096)  # whatever earlier tests hold open
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            _check_open_files(4, 2)
        except LoaderProcessError as err:
            said.write_text(str(err))
        os._exit(0)
    os.waitpid(child, 0)
    assert "lets the process open 64 files, and with data.num_workers 4 it needs about" in said.read_text()
    assert "`ulimit -n 4096`" in said.read_text()
    assert "--data.num_workers" in said.read_text()


def test_limit_of_open_files_is_raised_within_what_is_granted() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        _check_open_files(4, 2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_system_without_a_list_of_open_files_is_not_taken_for_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("crab_lightning.data.loader.Path", lambda name: tmp_path / "absent")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (4096, 4096))
    _check_open_files(4, 2)
