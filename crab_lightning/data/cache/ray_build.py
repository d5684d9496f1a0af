"""Work on files spread over the machines of a Ray cluster."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from crab_lightning.data.check.pool import Failure, run_isolated

Job = TypeVar("Job")
Result = TypeVar("Result")

_JOBS_A_BATCH = 16  # some seconds of decoding: enough for the cost of a batch to vanish


def run_on_ray(
    function: Callable[[Job], Result], jobs: Iterable[Job], timeout_s: float
) -> Iterator[tuple[Job, Result | Failure]]:
    """Yield every job with its result, in the order in which they end, from a Ray Data job.

    A task takes a few jobs and guards against files that crash or hang their decoder as on one machine, in a
    child process. A task whose machine is lost is run again: work that is done twice has to do no harm.

    Args:
        function: Called with one job; importable on every machine.
        jobs: What to work on; all of them are handed over at once.
        timeout_s: Time after which a child that is still on one job is killed.

    Raises:
        ModuleNotFoundError: If Ray is not installed; the message names the extra.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "--ray needs Ray, which is not installed: pip install 'crab_lightning[ray]' on every machine"
        ) from err
    if not ray.is_initialized():
        # Its log on the screen would hide the progress bar.
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    listed = list(jobs)
    if not listed:
        return
    rows = [{"number": number, "job": _packed(job)} for number, job in enumerate(listed)]
    blocks = -(-len(rows) // _JOBS_A_BATCH)
    done = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        _work,  # it takes pandas blocks and keyword arguments, as asked for
        batch_size=_JOBS_A_BATCH,
        batch_format="pandas",
        fn_kwargs={"function": _packed(function), "timeout_s": timeout_s},
    )
    for row in done.iter_rows():
        yield listed[int(row["number"])], _unpacked(row["result"])


def _work(batch: Any, function: str, timeout_s: float) -> Any:
    """Do a batch of jobs; a data frame in, a data frame out."""
    # One child works in order, so results come in the order of the jobs.
    results = run_isolated(_unpacked(function), map(_unpacked, batch["job"]), 1, timeout_s=timeout_s)
    done = batch[["number"]].copy()
    done["result"] = [_packed(result) for _, result in results]
    return done


def _packed(value: Any) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def _unpacked(text: str) -> Any:
    return pickle.loads(base64.b64decode(text))  # what this process packed, never a file's
