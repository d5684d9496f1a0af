"""Calls that run ahead in threads, with results in the order of their items."""

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
    """Yield each item with the result of the call for it, in the order of the items.

    An error of a call is raised when its item is due. Calls that have not started by then are not made.

    Args:
        call: The function that is called with each item.
        items: The items.
        threads: Number of calls at the same time.
        ahead: Largest number of items that have been taken and not yielded yet.
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
