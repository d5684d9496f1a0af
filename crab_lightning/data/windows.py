"""Long clips as windows: one sample for each stretch of a clip, asked as a clip of its own."""

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
from crab_lightning.structures import SAMPLE_RATE_HZ, ClipWindow, DatasetSpec, Sample, Windows
from crab_lightning.tasks.base import Task
from crab_lightning.tasks.event_windows import IN_WINDOW

SLACK_S = 0.5
"""A clip that is this much longer than a window is still one window: lengths of files are never exact."""
MOST = 100_000
"""Windows of one clip; an hour with a window each tenth of a second has 36,000."""


def spans_of(whole_s: float, windows: Windows) -> list[tuple[float, float]]:
    """Return start and end of the windows of a clip, each as long as was asked; the last one ends with it.

    A clip that is no longer than one window has none: it is asked as it is.

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
    """Return a sample for each window of a clip; the sample alone where the clip is one window.

    Args:
        sample: Stands for the whole clip.
        whole_s: Length of the clip.
        windows: Length and distance of the windows.
    """
    spans = spans_of(whole_s, windows)
    if not spans:
        return [sample]
    return [
        replace(sample, id=f"{sample.id}#{k}", window=ClipWindow(sample.id, k, start_s, end_s, whole_s))
        for k, (start_s, end_s) in enumerate(spans)
    ]


def length_of(sample: Sample, limits: MediaLimits | None = None) -> float:
    """Return the length of a sample's clip in seconds, as the header of its video or sound declares it.

    A clip with pictures ends with them: a window without pictures cannot be asked. A warning names a clip
    whose sound goes on. A file whose header states no length, as some recorders write, is read for it. 0
    where a file cannot be opened; loading it then says what is wrong.
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
    """Tell whether a sample can be asked, and learnt, window by window where its clip is long."""
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
    """Yield the samples, those of long clips as their windows where their task can be asked so.

    Args:
        samples: Any samples.
        tasks: The tasks, by key.
        specs: The datasets' rows, by key.
        windows: Length and distance of the windows.
        limits: Bounds on what is read of one file.
        with_truth: Cut the truth of each window to it, as for training; else it stays that of the clip.
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
    """Return a window of a long clip with a truth of its own; the sample itself where it is no longer.

    The window begins at a whole second that only seed, epoch and the sample's id decide.

    Args:
        sample: Stands for the whole clip.
        task: Its task.
        spec: Its dataset's row.
        length_s: Length of a window.
        seed: Seed of the data.
        epoch: Epoch of training.
        limits: Bounds on what is read of one file.
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
    """Add the windows of a batch, and where the events of their clips lie, by dataset."""
    for sample in samples:
        if IN_WINDOW in sample.fields:
            counts.setdefault(sample.dataset, Counter()).update({"windows": 1, **sample.fields[IN_WINDOW]})


def told(counts: Mapping[str, Counter[str]], length_s: float) -> list[str]:
    """Return a line for each dataset that says where the events of its windows' clips lay."""
    if not counts:
        return [f"data.train_window_s: no training clip is longer than {length_s:g} s"]
    return [
        f"{name}: trained on {found['windows']:,} windows of {length_s:g} s. Of the events of their "
        f"clips {found['whole']:,} were completely inside the window, {found['cut']:,} were cut at its "
        f"ends, and {found['outside']:,} were outside"
        for name, found in counts.items()
    ]


def check_cuttable(
    length_s: float,
    rows: Mapping[str, Sequence[Sample]],
    tasks: Mapping[str, Task[Any]],
    specs: Mapping[str, DatasetSpec],
) -> None:
    """Refuse random windows where no dataset can be cut into them.

    Raises:
        ValueError: If there is none.
    """
    first = [samples[0] for samples in rows.values() if len(samples)]
    if not any(can_be_cut(s, tasks[s.task], specs[s.dataset]) for s in first):
        raise ValueError(
            f"data.train_window_s is {length_s:g}, but no dataset here can be cut into windows. That needs "
            "true times in seconds: event parsing, or event localization scored by `metrics: [map]` alone "
            "whose rows have events_s. Leave train_window_s out, or add such a dataset"
        )
