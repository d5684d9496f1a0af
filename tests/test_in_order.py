"""Calls run ahead no further than is asked, and come back in the order of their items."""

import threading
import time

import pytest

from crab_lightning.in_order import in_order


def test_results_come_in_order_and_no_call_runs_further_ahead() -> None:
    begun: list[int] = []

    def slow_first(item: int) -> int:
        begun.append(item)
        time.sleep(0.05 if item == 0 else 0)
        return 10 * item

    found = in_order(slow_first, range(6), threads=2, ahead=3)
    assert next(found) == (0, 0)
    assert set(begun) <= {0, 1, 2}
    assert list(found) == [(item, 10 * item) for item in range(1, 6)]


def test_an_error_is_raised_in_its_turn_and_ends_the_threads() -> None:
    def fails_at_two(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    before = threading.active_count()
    found = in_order(fails_at_two, range(9), threads=2, ahead=4)
    assert [next(found), next(found)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="the third"):
        next(found)
    assert threading.active_count() == before
