"""Divides long clips into windows, each of which is a sample of its own."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crab_lightning.data.sampling.seeding import stable_hash
from crab_lightning.media import MediaError, MediaLimits, probe, read_audio, read_video
from crab_lightning.spelling import counted
from crab_lightning.structures import SAMPLE_RATE_HZ, ClipWindow, DatasetSpec, Sample, Windows
from crab_lightning.tasks.base import Task
from crab_lightning.tasks.event_windows import IN_WINDOW

SLACK_S = 0.5
"""A clip that is longer than a window by at most this is one window: lengths of files are not exact."""
MOST = 100_000
"""Largest number of windows of one clip. An hour with a window each tenth of a second has 36,000."""


def spans_of(whole_s: float, windows: Windows) -> list[tuple[float, float]]:
    """Return start and end in seconds of the windows of a clip. The last window ends with the clip.

    For a clip that is not longer than one window, the list is empty.

    Raises:
        ValueError: If a clip would have more than ``MOST`` windows.
    """
    length_s, hop_s = windows.length_s, windows.hop_s or windows.length_s
    if whole_s <= length_s + SLACK_S:
        return []
    last = max(1, math.ceil((whole_s - length_s - SLACK_S) / hop_s))
    if last >= MOST:
        raise ValueError(
            f"windows of {length_s:g} s, one each {hop_s:g} s, would ask {last + 1:,} questions about a clip "
            f"of {whole_s:g} s; {MOST:,} is the most. Give a larger hop_s"
        )
    starts = [k * hop_s for k in range(last)] + [min(last * hop_s, whole_s - length_s)]
    return [(round(start, 3), round(start + length_s, 3)) for start in starts]


def windows_of(sample: Sample, whole_s: float, windows: Windows) -> list[Sample]:
    """Return a sample for each window of a clip, or only the sample if the clip is one window.

    Args:
        sample: The sample of the whole clip.
        whole_s: Length of the clip in seconds.
        windows: Length and distance of the windows.

    Raises:
        ValueError: If the clip would have more than ``MOST`` windows.
    """
    spans = spans_of(whole_s, windows)
    if not spans:
        return [sample]
    return [
        replace(sample, id=f"{sample.id}#{k}", window=ClipWindow(sample.id, k, start_s, end_s, whole_s))
        for k, (start_s, end_s) in enumerate(spans)
    ]


def length_of(sample: Sample, limits: MediaLimits | None = None) -> float:
    """Return the length of a sample's clip in seconds, as stated in the header of its video or sound.

    A clip with pictures ends with the pictures. A warning names a clip whose sound is longer. If the header
    states no length, the file is read. The length is 0 if a file cannot be opened; the error is raised when
    it is loaded.
    """
    bounds = limits or MediaLimits()
    shown_s: float | None = None
    try:
        for path in map(Path, sample.videos[:1]):
            info = probe(path, limits=bounds)
            shown_s = (
                info.shown_s or info.duration_s or read_video(path, 1, 8, limits=bounds).duration_s or 0.0
            )
        for path in map(Path, sample.audios[:1]):
            heard_s = probe(path, limits=bounds).duration_s
            if shown_s is None:
                return heard_s or len(read_audio(path, limits=bounds)) / SAMPLE_RATE_HZ
            if heard_s is not None and heard_s > shown_s + SLACK_S:
                warnings.warn(
                    f"{sample.dataset}, {path}: the sound lasts {heard_s:g} s and the pictures "
                    f"{shown_s:g} s. The windows end with the pictures, so the sound after them is not "
                    "heard",
                    stacklevel=2,
                )
    except MediaError:
        pass
    return shown_s or 0.0


def can_be_cut(sample: Sample, task: Task[Any], spec: DatasetSpec) -> bool:
    """Return whether a long clip of this sample can be divided into windows."""
    single = len(sample.videos) <= 1 and len(sample.audios) <= 1 and not sample.images
    return single and task.by_window(sample, spec)


def expanded(
    samples: Iterable[Sample],
    tasks: Mapping[str, Task[Any]],
    specs: Mapping[str, DatasetSpec],
    windows: Windows,
    limits: MediaLimits | None = None,
    *,
    with_truth: bool = False,
) -> Iterator[Sample]:
    """Yield the samples, and instead of a long clip its windows, if its task allows this.

    Args:
        samples: Any samples.
        tasks: The tasks, by key.
        specs: Entries of the datasets in the config, by key.
        windows: Length and distance of the windows.
        limits: Limits on what is read of one file.
        with_truth: Give each window the true answer for its part, as for training. With ``False``, it keeps
            the true answer of the whole clip.
    """
    for sample in samples:
        task, spec = tasks[sample.task], specs[sample.dataset]
        if not can_be_cut(sample, task, spec):
            yield sample
            continue
        for one in windows_of(sample, length_of(sample, limits), windows):
            yield one if one.window is None or not with_truth else task.windowed(sample, one.window, spec)


def random_window(
    sample: Sample,
    task: Task[Any],
    spec: DatasetSpec,
    length_s: float,
    seed: int,
    epoch: int,
    limits: MediaLimits | None = None,
) -> Sample:
    """Return a random window of a long clip with the true answer for it, or the sample of a short clip.

    The window begins at a whole second, which depends only on the seed, the epoch and the id of the sample.

    Args:
        sample: The sample of the whole clip.
        task: Task of the sample.
        spec: Entry of its dataset in the config.
        length_s: Length of a window in seconds.
        seed: Seed of the data.
        epoch: Epoch of training.
        limits: Limits on what is read of one file.
    """
    if not can_be_cut(sample, task, spec):
        return sample
    whole_s = length_of(sample, limits)
    if whole_s <= length_s + SLACK_S:
        return sample
    starts = int(whole_s - length_s) + 1
    start_s = float(stable_hash(seed, "window", epoch, sample.id) % starts)
    return task.windowed(sample, ClipWindow(sample.id, 0, start_s, start_s + length_s, whole_s), spec)


def count_windows(counts: dict[str, Counter[str]], samples: Iterable[Sample]) -> None:
    """Count, for each dataset, the windows of a batch and where the events of their clips are."""
    for sample in samples:
        if IN_WINDOW in sample.fields:
            counts.setdefault(sample.dataset, Counter()).update({"windows": 1, **sample.fields[IN_WINDOW]})


def told(counts: Mapping[str, Counter[str]], length_s: float) -> list[str]:
    """Return a line for each dataset with the numbers of events inside, cut by and outside of the windows."""
    if not counts:
        return [f"data.train_window_s: no training clip is longer than {length_s:g} s"]
    return [
        f"{name}: trained on {counted(found['windows'], 'window')} of {length_s:g} s. Events of their "
        f"clips: {found['whole']:,} completely inside the window, {found['cut']:,} cut at its ends, "
        f"{found['outside']:,} outside"
        for name, found in counts.items()
    ]


def check_cuttable(
    length_s: float,
    rows: Mapping[str, Sequence[Sample]],
    tasks: Mapping[str, Task[Any]],
    specs: Mapping[str, DatasetSpec],
) -> None:
    """Check that at least one dataset can be divided into windows.

    Raises:
        ValueError: If no dataset can be divided.
    """
    first = [samples[0] for samples in rows.values() if len(samples)]
    if not any(can_be_cut(s, tasks[s.task], specs[s.dataset]) for s in first):
        raise ValueError(
            f"data.train_window_s is {length_s:g}, but no dataset here can be cut into windows. That needs "
            "true times in seconds: event parsing, or event localization scored by `metrics: [map]` alone "
            "whose rows have events_s. Leave train_window_s out, or add such a dataset"
        )
