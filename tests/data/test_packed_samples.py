from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from crab_lightning.data.sampling.packed_samples import PackedSamples
from crab_lightning.structures import Sample

SAMPLES = [
    Sample(
        f"ks/{i}", "ks", "t", "train", "c", audios=(Path(f"{i}.wav"),), fields={"class_name": "é" * i}, row=i
    )
    for i in range(5)
]


def test_packed_samples_are_the_samples() -> None:
    packed = PackedSamples(SAMPLES)
    assert list(packed) == SAMPLES
    assert (packed[-1], packed[1:4], len(packed)) == (SAMPLES[-1], SAMPLES[1:4], 5)
    assert list(pickle.loads(pickle.dumps(packed))) == SAMPLES
    with pytest.raises(IndexError):
        packed[5]


def test_joined_parts_lie_end_to_end() -> None:
    parts = [PackedSamples(SAMPLES[:2]), PackedSamples([]), PackedSamples(SAMPLES[2:])]
    assert list(PackedSamples.joined(parts)) == SAMPLES
    assert list(PackedSamples.joined([])) == []
