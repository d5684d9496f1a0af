from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from crab_lightning.data.loader import _taken_ahead


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
