"""How many batches Lightning takes of an epoch, when epochs differ in length."""

from __future__ import annotations

from typing import Any


def renew_limits(trainer: Any) -> None:
    """Let the epoch that begins be as long as its loader says.

    Lightning asks for the length once, before a checkpoint's position is loaded, and ends every epoch there:
    a run resumed on more processes would stop before the epoch it was killed in is over, and one with a
    budget of tokens would drop the last batches of every epoch that is longer than its first.

    Args:
        trainer: A trainer at the start of an epoch, its loaders made.
    """
    loop = trainer.fit_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined is None or fetcher is None or combined.limits is None:
        return
    limit = trainer.limit_train_batches
    lengths = [len(loader) for loader in combined.flattened]
    # In place: the iterator that may have been made already holds the same list.
    combined.limits[:] = [min(n, limit) if isinstance(limit, int) else int(n * limit) for n in lengths]
    if fetcher.length is not None:
        fetcher.length = len(combined)
        fetcher.done = fetcher.fetched >= fetcher.length
    loop.max_batches = len(combined)
    if isinstance(trainer.val_check_interval, float) and trainer.val_check_batch is not None:
        trainer.val_check_batch = max(1, int(loop.max_batches * trainer.val_check_interval))
