"""Handles clips that cannot be read: the run fails, or a limited number of clips is listed and replaced."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from crab_lightning.data.deadline import LoadTimeout
from crab_lightning.data.sampling.seeding import Indices, stable_hash
from crab_lightning.media import AudioWindowError, MediaError
from crab_lightning.structures import Sample

_log = logging.getLogger(__name__)

BROKEN_CLIP: tuple[type[Exception], ...] = (MediaError, AudioWindowError, LoadTimeout, OSError)
"""Errors about a clip, and not about the program or the config."""

FILE_NAME = "quarantine.jsonl"


class QuarantineError(ValueError):
    """More clips are broken than the limits allow."""


@dataclass
class OnError:
    """The setting for clips that cannot be read.

    Args:
        policy: ``fail`` stops the run. ``quarantine`` uses another sample of the same dataset and split
            instead, lists the broken sample in the run folder, and ends the run if too many are broken.
        max_share: Largest fraction of the samples of a dataset in one split that may be broken.
        max_count: Largest number of samples that may be broken.

    Raises:
        ValueError: If a number is not valid.
    """

    policy: Literal["fail", "quarantine"] = "fail"
    max_share: float = 0.01
    max_count: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ValueError(
                f"data.on_error.max_share is {self.max_share}; it must be a fraction from 0 to 1"
            )
        if self.max_count < 0:
            raise ValueError(f"data.on_error.max_count is {self.max_count}; it must be at least 0")


class Quarantine:
    """The broken samples of one run, in a file that all processes of the run share.

    Each line is written at once, so that several processes can write at the same time. A process that starts
    later (a resumed run, the workers of another epoch) does not try a listed sample again, so that all
    processes use the same samples. To have a sample tried again, delete its line.

    Args:
        path: File of the list.
        budget: The limits on broken samples.
        samples: The samples from which replacements are chosen.
        seed: Seed of the choice.
    """

    def __init__(self, path: Path, budget: OnError, samples: Sequence[Sample], seed: int) -> None:
        self.path, self.budget, self.seed = path, budget, seed
        places: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            places[sample.dataset, sample.split].append(index)
        self._places: dict[tuple[str, str], Indices] = {
            key: np.asarray(found, dtype=np.int64) for key, found in places.items()
        }
        self._broken: dict[str, tuple[str, str]] = {}  # dataset and split of each id
        self._read_bytes = 0
        self._refresh()

    def __contains__(self, sample: Sample) -> bool:
        return sample.id in self._broken

    def replacement(self, sample: Sample, epoch: int, attempt: int) -> int:
        """Return the index of a replacement, which depends only on seed, epoch, sample and attempt.

        Args:
            sample: The broken sample.
            epoch: Epoch of training. Each epoch uses another replacement, so that no sample is used twice as
                often.
            attempt: Number of earlier replacements that were broken too.
        """
        places = self._places[sample.dataset, sample.split]
        return int(places[stable_hash(self.seed, "quarantine", epoch, sample.id, attempt) % len(places)])

    def add(self, sample: Sample, other: Sample, error: Exception) -> None:
        """Add a broken sample to the list.

        Args:
            sample: The broken sample.
            other: The replacement.
            error: The error of the broken sample.

        Raises:
            QuarantineError: If more samples of its dataset and split are broken than the limits allow.
        """
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        text = f"{type(error).__name__}: {error}{notes}"
        line = {
            "id": sample.id,
            "dataset": sample.dataset,
            "split": sample.split,
            "row": sample.row,
            "replaced_by": other.id,
            "error": text[:2000],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        try:
            # A single write, so that lines of several processes do not mix.
            os.write(file, (json.dumps(line) + "\n").encode())
        finally:
            os.close(file)
        _log.warning("A sample is not used, see %s: %s %s", self.path, sample.id, text)
        self._refresh()
        self._spend(sample, text)

    def counts(self) -> Mapping[str, int]:
        """Return the number of broken samples of each dataset."""
        self._refresh()
        return Counter(dataset for dataset, _ in self._broken.values())

    def _spend(self, sample: Sample, error: str) -> None:
        key = (sample.dataset, sample.split)
        count = list(self._broken.values()).count(key)
        total = len(self._places[key])
        allowed = min(self.budget.max_count, int(self.budget.max_share * total), total - 1)
        if count > allowed:
            raise QuarantineError(
                f"data.datasets.{sample.dataset}: {count} of {total:,} {sample.split} samples cannot be "
                f"read, and data.on_error allows {allowed} (max_count {self.budget.max_count}, max_share "
                f"{self.budget.max_share:g}). The last one: {error}. All are in {self.path}; repair the"
                f" files, or increase the limits"
            )

    def _refresh(self) -> None:
        """Read the lines that other processes have added."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
                self._broken[line["id"]] = line["dataset"], line["split"]
            except (ValueError, TypeError, KeyError):
                continue  # a line that a full disk cut off
