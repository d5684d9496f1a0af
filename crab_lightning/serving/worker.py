"""The thread that runs the model: it takes encoded questions and returns tokens."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from crab_lightning.models.engine import Answer, Sampling
from crab_lightning.structures import Encoded

_LOG = logging.getLogger(__name__)
_IDLE_S = 0.05


class Overloaded(RuntimeError):
    """A question is refused, because too many questions wait or the server is stopping."""


@dataclass(eq=False)
class Job:
    """One question for the worker, and its answer.

    Args:
        encoded: The question as model inputs.
        max_tokens: Largest number of tokens of the answer.
        sampling: How tokens are chosen.
        notify: Function that the worker's thread calls when the job has a new token, has ended or has failed.
        weighed: Answer whose log-probabilities are requested; no text is generated then.
        answer: The answer that is being written; ``None`` until the question was read.
        likelihood: The tokens of ``weighed`` and their log-probabilities in nats.
        error: The reason why there is no answer.
        cancelled: Whether the answer is no longer needed.
        told: Number of tokens of which ``notify`` was called.
    """

    encoded: Encoded
    max_tokens: int
    sampling: Sampling
    notify: Callable[[], None]
    weighed: str | None = None
    answer: Answer | None = None
    likelihood: tuple[list[int], list[float]] | None = None
    error: Exception | None = None
    cancelled: bool = False
    told: int = field(default=0, repr=False)

    @property
    def done(self) -> bool:
        """Whether the answer is complete or has failed."""
        written = self.answer is not None and self.answer.finished
        return written or self.likelihood is not None or self.error is not None

    def cancel(self) -> None:
        """Stop writing the answer."""
        self.cancelled = True
        if self.answer is not None:
            self.answer.cancelled = True


class Worker:
    """Answers jobs with one model, several at a time; an answer does not depend on other jobs.

    Args:
        model: A loaded model in evaluation mode.
        slots: Number of answers that are written at the same time.
        waiting: Number of further jobs that may wait.
    """

    def __init__(self, model: Any, slots: int = 16, waiting: int = 64) -> None:
        self.model, self.slots = model, slots
        self._jobs: queue.Queue[Job] = queue.Queue(maxsize=waiting)
        self._running: list[Job] = []
        self._stop = threading.Event()
        self._engine = model.engine(slots)
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def load(self) -> tuple[int, int]:
        """Return the number of answers that are being written and the number of jobs that wait."""
        return len(self._running), self._jobs.qsize()

    def submit(self, job: Job) -> None:
        """Add a job to the queue.

        Raises:
            Overloaded: If too many jobs wait, or the worker was stopped.
        """
        if self._stop.is_set():
            raise Overloaded("the server is shutting down")
        with self._jobs.mutex:  # removes the jobs of clients that have closed the connection
            kept = [one for one in self._jobs.queue if not one.cancelled]
            self._jobs.queue.clear()
            self._jobs.queue.extend(kept)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Overloaded(f"{self._jobs.maxsize} questions are already waiting; try again later") from None

    def stop(self, grace_s: float = 10.0) -> None:
        """Stop the thread after it has finished its jobs; wait at most ``grace_s`` seconds for that."""
        self._stop.set()
        self._thread.join(grace_s)

    def _run(self) -> None:
        with torch.no_grad():
            while not (self._stop.is_set() and not self._running and self._jobs.empty()):
                self._admit()
                if not self._running:
                    continue
                try:
                    self._engine.step()
                except Exception as err:
                    _LOG.exception("a decoding step failed")
                    self._fail_all(err)
                self._tell()

    def _admit(self) -> None:
        """Read as many waiting questions as slots are free."""
        new: list[Job] = []
        free = self.slots - len(self._running)
        while len(new) < free:
            try:
                job = self._jobs.get(timeout=0 if self._running or new else _IDLE_S)
            except queue.Empty:
                break
            if not job.cancelled:
                new.append(job)
        if not new:
            return
        try:
            self._read(new)
        except Exception:
            if len(new) == 1:
                self._read_alone(new[0])
                return
            for job in new:  # one of them failed; the others can be answered
                if not job.done and job not in self._running:
                    self._read_alone(job)

    def _read_alone(self, job: Job) -> None:
        try:
            self._read([job])
        except Exception as err:
            _LOG.exception("a question could not be read")
            job.error = err
            job.notify()

    def _read(self, jobs: Sequence[Job]) -> None:
        asked = [job for job in jobs if job.weighed is None]
        if len(asked) < len(jobs):
            self._weigh([job for job in jobs if job.weighed is not None])
            if not asked:
                return
        jobs = asked
        batch = self.model.processor.collate([job.encoded for job in jobs]).to(self.model.device)
        limits = [job.max_tokens for job in jobs]
        answers = self.model.queue(self._engine, batch, [job.sampling for job in jobs], limits)
        for job, answer in zip(jobs, answers, strict=True):
            answer.cancelled = job.cancelled
            job.answer = answer
        self._running += jobs
        self._tell()

    def _weigh(self, jobs: Sequence[Job]) -> None:
        """Compute the log-probabilities of given answers."""
        batch = self.model.processor.collate([job.encoded for job in jobs]).to(self.model.device)
        found = self.model.weigh(batch, [job.weighed for job in jobs])
        for job, likelihood in zip(jobs, found, strict=True):
            job.likelihood = likelihood
            job.notify()

    def _tell(self) -> None:
        for job in self._running:
            answer = job.answer
            if answer is not None and (answer.finished or len(answer.tokens) > job.told):
                job.told = len(answer.tokens)
                job.notify()
        self._running = [job for job in self._running if not job.done and not job.cancelled]
        self._engine.take()

    def _fail_all(self, err: Exception) -> None:
        for job in self._running:
            job.error = err
            job.notify()
        self._running = []
        # The state of the old engine is unknown after a failed step.
        self._engine = self.model.engine(self.slots)
        time.sleep(_IDLE_S)
