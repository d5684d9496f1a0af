"""Calls that run ahead in threads, and come back in the order of what they were made for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    call: Callable[[Item], Made], items: Iterable[Item], threads: int, ahead: int
) -> Generator[tuple[Item, Made], None, None]:
    """Yield each item with what a call makes of it.

    An error of a call is raised when its item's turn comes; calls that have not begun by then are dropped.

    Args:
        call: What is done with an item.
        items: The items.
        threads: Calls at the same time.
        ahead: Largest number of items whose calls run, wait or have ended and are not yielded yet.
    """
    rest = iter(items)
    pending: deque[tuple[Item, Future[Made]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for item in islice(rest, ahead - len(pending)):
                pending.append((item, pool.submit(call, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
