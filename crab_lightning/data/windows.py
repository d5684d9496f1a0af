"""Long clips as windows: one sample for each stretch of a clip, asked as a clip of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crab_lightning.media import MediaError, MediaLimits, probe
from crab_lightning.structures import ClipWindow, DatasetSpec, Sample, Windows
from crab_lightning.tasks.base import Task

SLACK_S = 0.5
"""A clip that is this much longer than a window is still one window: lengths of files are never exact."""


def spans_of(whole_s: float, windows: Windows) -> list[tuple[float, float]]:
    """Return start and end of the windows of a clip, each as long as was asked; the last one ends with it.

    A clip that is no longer than one window has none: it is asked as it is.
    """
    length_s, hop_s = windows.length_s, windows.hop_s or windows.length_s
    if whole_s <= length_s + SLACK_S:
        return []
    last = max(1, math.ceil((whole_s - length_s - SLACK_S) / hop_s))
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

    0 where a file cannot be opened; loading it then says what is wrong.
    """
    for path in (*sample.videos[:1], *sample.audios[:1]):
        try:
            found = probe(Path(path), limits=limits or MediaLimits()).duration_s
        except MediaError:
            return 0.0
        if found is not None:
            return found
    return 0.0


def expanded(
    samples: Iterable[Sample],
    tasks: Mapping[str, Task[Any]],
    specs: Mapping[str, DatasetSpec],
    windows: Windows,
    limits: MediaLimits | None = None,
) -> Iterator[Sample]:
    """Yield the samples, those of long clips as their windows where their task can be asked so."""
    for sample in samples:
        single = len(sample.videos) <= 1 and len(sample.audios) <= 1 and not sample.images
        if single and tasks[sample.task].by_window(sample, specs[sample.dataset]):
            yield from windows_of(sample, length_of(sample, limits), windows)
        else:
            yield sample
