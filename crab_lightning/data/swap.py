"""Gives every clip the sound of another clip, to test whether a model uses the sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crab_lightning.data.sampling.seeding import Indices, stable_hash
from crab_lightning.structures import Sample


def swapped_audio(samples: Sequence[Sample], seed: int) -> Indices:
    """Choose for every sample another sample of its dataset, whose sound it gets.

    The recordings of a dataset are put into a random circle. Each gets the sound of the next recording with
    which it shares no file. So each sound is used about as often as before, and never with its own pictures.

    Args:
        samples: The samples of one or several datasets.
        seed: Seed of the circle.

    Returns:
        For each sample, the index of the sample that gives the sound, ``(len(samples),)``.

    Raises:
        ValueError: If a dataset has no two samples without a common sound.
    """
    sounds: dict[str, dict[tuple[Path, ...], int]] = {}
    keys: list[tuple[str, tuple[Path, ...]]] = []
    for index, sample in enumerate(samples):
        keys.append((sample.dataset, sample.audios))
        sounds.setdefault(sample.dataset, {}).setdefault(sample.audios, index)
    donors: dict[tuple[str, tuple[Path, ...]], int] = {}
    for dataset, first in sounds.items():
        # The order depends on the ids and not on the paths, so that it is the same in another data root.
        circle = sorted(first, key=lambda audios: stable_hash(seed, "swap", samples[first[audios]].id))
        for place, audios in enumerate(circle):
            others = (circle[(place + step) % len(circle)] for step in range(1, len(circle)))
            donor = next((other for other in others if not set(other) & set(audios)), None)
            if donor is None:
                raise ValueError(
                    f"data.datasets.{dataset}: no other recording to take the sound for "
                    f"'{audios[0].name}' from; set data.audio_swap to false or add clips"
                )
            donors[dataset, audios] = first[donor]
    return np.asarray([donors[key] for key in keys], dtype=np.int64)


def with_sound_of(sample: Sample, donor: Sample) -> Sample:
    """Return a sample with the sound files and the audio unit of another sample."""
    return replace(sample, audios=donor.audios, unit=donor.unit)
