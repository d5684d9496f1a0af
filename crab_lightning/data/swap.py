"""Every clip with the sound of another: the control that shows whether a model listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crab_lightning.data.sampling.seeding import Indices, stable_hash
from crab_lightning.structures import Sample


def swapped_audio(samples: Sequence[Sample], seed: int) -> Indices:
    """Choose for every sample another one of its dataset to take the sound from.

    The recordings of a dataset are put in a seeded circle and each gets the sound of the next one with which
    it shares no file, so the sounds stay those of the dataset, each heard about as often as before, and none
    is heard with its own picture.

    Args:
        samples: The samples of one or several datasets.
        seed: Seed of the circle.

    Returns:
        Index of the donor of each sample, ``(len(samples),)``.

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
        # Ranked by sample id and not by path, so that another data root gives the same circle.
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
    """Return the sample with the sound files of another, and with the unit of them that the other hears."""
    return replace(sample, audios=donor.audios, unit=donor.unit)
