"""Distributes work on files over the machines of a Ray cluster."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from crab_lightning.data.check.pool import Failure, run_isolated

Job = TypeVar("Job")
Result = TypeVar("Result")

_JOBS_A_BATCH = 16  # some seconds of decoding, so that the overhead of a batch is small


def run_on_ray(
    function: Callable[[Job], Result], jobs: Iterable[Job], timeout_s: float
) -> Iterator[tuple[Job, Result | Failure]]:
    """Work on jobs with Ray Data, and yield every job with its result as soon as the job is finished.

    A Ray task works on a few jobs in a child process, so that a file can crash or block only that process. If
    a machine is lost, its tasks are run again. So it must be harmless to do a job twice.

    Args:
        function: Called with one job. All machines must be able to import it.
        jobs: The jobs. All are sent to Ray at the beginning.
        timeout_s: A child process that works longer on one job, in seconds, is killed.

    Raises:
        ModuleNotFoundError: If Ray is not installed. The message names the extra.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "--ray needs Ray, which is not installed: pip install 'crab_lightning[ray]' on every machine"
        ) from err
    if not ray.is_initialized():
        # The log of Ray on the screen would hide the progress bar.
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    listed = list(jobs)
    if not listed:
        return
    rows = [{"number": number, "job": _packed(job)} for number, job in enumerate(listed)]
    blocks = -(-len(rows) // _JOBS_A_BATCH)
    done = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        _work,  # gets pandas blocks and the keyword arguments below
        batch_size=_JOBS_A_BATCH,
        batch_format="pandas",
        fn_kwargs={"function": _packed(function), "timeout_s": timeout_s},
    )
    for row in done.iter_rows():
        yield listed[int(row["number"])], _unpacked(row["result"])


def _work(batch: Any, function: str, timeout_s: float) -> Any:
    """Work on a batch of jobs, which is a data frame, and return a data frame with the results."""
    # With one child process, the results have the order of the jobs.
    results = run_isolated(_unpacked(function), map(_unpacked, batch["job"]), 1, timeout_s=timeout_s)
    done = batch[["number"]].copy()
    done["result"] = [_packed(result) for _, result in results]
    return done


def _packed(value: Any) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def _unpacked(text: str) -> Any:
    return pickle.loads(base64.b64decode(text))  # bytes that this program packed, never those of a file
