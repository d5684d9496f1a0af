"""Loaders of batches, in the order of the samplers of this package.

They are not derived from torch's ``DataLoader``: Lightning rebuilds such a loader with its own sampler, which
would change the order and lose the marks of repeated samples.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from crab_lightning.data.dataset import AVDataset
from crab_lightning.data.sampling.samplers import EvalBatches, TrainBatches
from crab_lightning.structures import Batch, Encoded

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from crab_lightning.processing import Processor


_log = logging.getLogger(__name__)
_MORE_FILES = (
    "allow more with `ulimit -n 4096` in the shell that starts the run, or give fewer --data.num_workers"
    " (0 loads in the process itself)"
)
# Upper limits of open files: pipes of a loader process, tensors of a batch, files while a clip is read.
_PIPES, _TENSORS, _READING = 8, 32, 32


class LoaderProcessError(ChildProcessError):
    """A loader process has ended or cannot work. The message says how, and what to do about it."""


def _collated(processor: Processor, items: Sequence[tuple[Encoded, bool]]) -> Batch:
    encoded, repeated = zip(*items, strict=True)
    return processor.collate(encoded, repeated)


class BatchLoader(Iterable[Batch]):
    """Loads batches in the order of a batch sampler.

    Args:
        dataset: The samples.
        batches: The sampler, which says which samples form each batch.
        num_workers: Number of loader processes. With 0, the main process loads.
        prefetch_batches: Number of batches that each worker prepares in advance.
    """

    keeps_workers: ClassVar[bool] = False
    """Whether the workers stay between epochs."""

    def __init__(
        self,
        dataset: AVDataset,
        batches: TrainBatches | EvalBatches,
        num_workers: int = 0,
        prefetch_batches: int = 2,
    ) -> None:
        self.dataset, self.batches = dataset, batches
        self._collate = partial(_collated, dataset.processor)
        self._workers: list[Any] = []
        self._loader: DataLoader[Encoded] | None = DataLoader(
            dataset,
            batch_sampler=cast("Any", batches),  # torch's stub asks for lists of int; ours are draws
            collate_fn=self._collate,
            num_workers=num_workers,
            prefetch_factor=prefetch_batches if num_workers else None,
            persistent_workers=self.keeps_workers and num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # The seeds of the workers are drawn from this generator. If they were drawn from that of torch,
            # dropout of a resumed run would differ from that of an uninterrupted run.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        # Since this is a generator, workers start with the first batch, after the epoch was set.
        if self._loader is None:
            raise RuntimeError("this loader was closed; get a new one from the data module")
        if self._loader.num_workers:
            _check_open_files(self._loader.num_workers, self._loader.prefetch_factor or 1)
        before = set(multiprocessing.active_children())
        with _undisturbed(), self._explained():
            batches: Iterator[Batch] = iter(self._loader)
        self._workers = [*(set(multiprocessing.active_children()) - before)] or self._workers  # else kept
        # For page-locked batches, torch has its own thread.
        by_thread = self._loader.num_workers > 0 and not self._loader.pin_memory
        with self._explained():
            yield from _taken_ahead(batches) if by_thread else batches

    def lost_worker(self) -> str | None:
        """Return a message about a loader process that was killed or has failed, or ``None``."""
        lost = next((one for one in self._workers if not one.is_alive() and one.exitcode), None)
        if lost is None:
            return None
        code = lost.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        full = " (a machine whose memory is full does this)" if code == -signal.SIGKILL else ""
        return (
            f"process {lost.pid}, which loads data, was {how}{full}. Free memory, or load with fewer"
            f" processes (--data.num_workers, now {len(self._workers)}) or fewer batches ahead"
            " (--data.prefetch_batches)"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of torch about lost loader processes or open files into a short message."""
        try:
            yield
        except (RuntimeError, OSError) as err:
            if (lost := self.lost_worker()) is not None:
                raise LoaderProcessError(lost) from err
            if "too many open files" in str(err).lower():
                raise LoaderProcessError(f"too many files are open; {_MORE_FILES}") from err
            raise

    def close(self) -> None:
        """Stop persistent workers."""
        self._loader = None


def _check_open_files(workers: int, prefetch: int) -> None:
    """Raise the limit on open files of this process to the number that its loaders need.

    A loader process that reaches the limit would lose its batch without an error, and the run would wait
    forever.

    Raises:
        LoaderProcessError: If the system does not allow so many files.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        open_now = len(list(Path("/proc/self/fd").iterdir()))
    except FileNotFoundError:  # not on Linux
        open_now = 64
    except OSError:  # the folder cannot be opened, because as many files are open as the limit allows
        open_now = soft
    needed = open_now + workers * _PIPES + (prefetch + 2) * _TENSORS + _READING
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LoaderProcessError(
            f"this system lets the process open {hard} files, and with data.num_workers {workers} it needs "
            f"about {needed}; {_MORE_FILES}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the present signal handler of ended child processes.

    torch sets its own handler when it starts workers. That handler raises an error as soon as a worker is
    lost, which may be in the middle of an optimizer step. Without it, the error is raised by the next batch,
    within 5 s.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    if getattr(before, "__module__", "") == "torch.utils.data._utils.signal_handling":
        before = signal.SIG_DFL  # another loader of this process has set it
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _taken_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Receive each batch from its worker while the batch before it is in use.

    This takes some milliseconds, because each tensor is unpickled and mapped from a file descriptor.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        upcoming = thread.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = thread.submit(next, batches, None)
            yield batch


class TrainLoader(BatchLoader):
    """Loads training batches. Its position is stored in checkpoints and can be restored.

    The position is the number of batches that were returned, and not of those that workers have prefetched,
    so it is right for any number of workers. After a restore, earlier batches are skipped without decoding.

    Args:
        dataset: The samples.
        batches: The sampler, which says which samples form each batch.
        num_workers: Number of loader processes. With 0, the main process loads.
        prefetch_batches: Number of batches that each worker prepares in advance.
        on_epoch: Called at the start of every epoch, when the length of the epoch is known.
    """

    batches: TrainBatches
    keeps_workers = True

    def __init__(
        self,
        dataset: AVDataset,
        batches: TrainBatches,
        num_workers: int = 0,
        prefetch_batches: int = 2,
        on_epoch: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(dataset, batches, num_workers, prefetch_batches)
        self._on_epoch = on_epoch
        self._step = 0

    @property
    def sampler(self) -> TrainLoader:
        """The object whose ``set_epoch`` Lightning calls at the start of every epoch: this loader."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch and call ``on_epoch``. A restored position in this epoch is kept."""
        self.batches.set_epoch(epoch)
        if self._on_epoch is not None:
            self._on_epoch()

    def __iter__(self) -> Iterator[Batch]:
        self._step = self.batches.start
        for batch in self._lasting():
            self._step += 1  # already counted while the batch is used, so that a checkpoint counts it as done
            yield batch

    def _lasting(self) -> Iterator[Batch]:
        """Yield batches. After a loader process is lost, load the others in this process.

        So all processes of the run can finish and save the present optimizer step. ``RunCheckpoint`` then
        stops the run.
        """
        try:
            yield from super().__iter__()
        except LoaderProcessError as err:
            if self.lost_worker() is None:
                raise
            _log.warning("%s. The remaining samples of this loader are loaded in the main process.", err)
            self.batches.load_state_dict(self.batches.state_dict(self._step))
            for draws in self.batches:
                yield self._collate(self.dataset.__getitems__(draws))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch, which is the same on all processes."""
        position = self.batches.state_dict(self._step)
        return {**position, "steps": len(self.batches), "drawn_from": self.batches.drawn_from}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the last batch of a checkpoint.

        Raises:
            ValueError: If the checkpoint is from the middle of an epoch with other data.
        """
        before, now = state["drawn_from"], self.batches.drawn_from
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        found = "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)
        if changed and 0 < state["step"] < state["steps"]:
            where = f"step {state['step']} of {state['steps']} of epoch {state['epoch']}"
            raise ValueError(
                f"the checkpoint was saved at {where} of other data: {found}. Resume with the data settings "
                "of that run, resume from the end of an epoch, or start a new run from its adapters."
            )
        if changed:  # between two epochs, the data may change; the earlier epoch has no rows left
            rank_zero_warn(f"this run continues with other data than before: {found}")
            self.batches.set_epoch(state["epoch"])
            state = self.batches.state_dict(len(self.batches) if state["step"] else 0)
        self.batches.load_state_dict(state)
        self._step = self.batches.start
