"""Estimates the number of tokens of a sample from its row, without opening a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crab_lightning.data.dataset import target_policy
from crab_lightning.data.loading import heard_window
from crab_lightning.processing import Geometry, visual_tokens
from crab_lightning.structures import AudioWindow, Conversation, DatasetSpec, Sample
from crab_lightning.tasks.base import Task

AUDIO_TOKENS_PER_S = 25
CHARACTERS_PER_TOKEN = 4  # roughly, for English; only the order of lengths matters
DIRECT_CHARACTERS = 40  # an answer in its tags


def audio_seconds(window: AudioWindow) -> float:
    """Estimate how many seconds are heard in a window, with units of one second as in the released datasets.

    >>> audio_seconds(AudioWindow("strided", units=60))  # MUSIC-AVQA hears 20 of its 60 s
    20.0
    """
    match window.kind:
        case "head":
            return window.head_s
        case "one_unit":
            return 1.0
        case "strided":
            return window.units / window.every * (window.before + window.after)
        case _:
            return float(window.units)


def guess_lengths(
    samples: Sequence[Sample],
    tasks: Mapping[str, Task[Any]],
    specs: Mapping[str, DatasetSpec],
    geometry: Geometry,
    seed: int,
    with_target: bool,
) -> NDArray[np.int32]:
    """Return the approximate number of tokens of each sample, with or without target, ``(len(samples),)``."""

    def tokens(sample: Sample) -> int:
        spec, written = specs[sample.dataset], 0
        if with_target:
            reasons = target_policy(sample, spec, seed) == "reasoning"
            written = len(sample.target or "") if reasons else DIRECT_CHARACTERS
        prompt = tasks[sample.task].conversation(sample)
        return guess_tokens(sample, spec, heard_window(spec, geometry), prompt, written)

    return np.fromiter(map(tokens, samples), np.int32, len(samples))


def guess_tokens(
    sample: Sample, spec: DatasetSpec, window: AudioWindow, prompt: Conversation, target_characters: int
) -> int:
    """Return the approximate number of tokens of a sample.

    Args:
        sample: The sample.
        spec: Entry of its dataset in the config.
        window: The part of the sound that is heard.
        prompt: The conversation.
        target_characters: Number of characters of the target text; 0 for a prompt.
    """
    size = spec.size_px
    seen = len(sample.videos) * visual_tokens(spec.frames, size, size)
    seen += len(sample.images) * visual_tokens(1, size, size)
    whole = spec.clip_s if window.kind in ("all", "units") else None
    heard = len(sample.audios) * (whole or audio_seconds(window)) * AUDIO_TOKENS_PER_S
    characters = sum(len(part) for part in prompt if isinstance(part, str)) + target_characters
    return round(seen + heard + characters / CHARACTERS_PER_TOKEN)
