"""The shipped rows of the 19 datasets: frames, audio windows and classes of the released model's input."""

from __future__ import annotations

from pathlib import Path

import pytest

from crab_lightning.data.manifests.layout import LAYOUTS
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import AudioWindow, DatasetSpec
from tests.tasks.released import datasets, spec_of, task_of

EMOTIONS = {"meld", "mer24", "cremad", "mafw", "dfew"}
FRAME_UNITS = {"s4": 5, "ms3": 5, "ref_avs": 10}


def test_there_is_one_row_for_each_layout_under_its_own_name() -> None:
    assert sorted(datasets()) == sorted(LAYOUTS)
    assert all(spec_of(name).layout == name and spec_of(name).folder is None for name in datasets())


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_frames_and_audio_window_are_the_released_ones(dataset: str) -> None:
    spec = spec_of(dataset)
    assert (spec.frames, spec.size_px) == (4 if dataset in EMOTIONS else 10, 224)
    if dataset in EMOTIONS:
        expected = AudioWindow("head", head_s=4.0)
    elif dataset in FRAME_UNITS:
        expected = AudioWindow("one_unit", units=FRAME_UNITS[dataset])
    elif dataset == "avqa":
        expected = AudioWindow("strided", units=60, every=6, before=0.5, after=1.5)
    else:
        expected = AudioWindow("units", units=5 if dataset == "arig" else 10)
    assert spec.audio == expected


def test_rows_are_drawn_by_their_number_and_none_may_be_missing() -> None:
    for name in datasets():
        spec = spec_of(name)
        assert (spec.weight, spec.limit, spec.target, spec.allow_missing) == (None, None, "reasoning", 0)


def test_classes_that_the_row_leaves_out_come_from_both_manifests() -> None:
    assert spec_of("ks").classes == ["chopping wood", "playing drums"]
    assert spec_of("unav").classes == ["dog barking", "man speaking, loud", "people eating"]
    assert spec_of("avqa").classes is None


@pytest.mark.parametrize("dataset", ["ave", "avvp", "s4", "ms3", "arig", "ref_avs"])
def test_targets_of_real_clips_read_back_as_their_truth(real_clips: Path, dataset: str) -> None:
    task, spec = task_of(dataset), spec_of(dataset)
    bare = DatasetSpec(task="t", layout=dataset)
    (sample,) = read_manifest(real_clips, dataset, bare, "train")
    truth = task.truth(sample, spec)
    assert truth is not None
    assert task.parse(task.target(sample, "reasoning"), sample, spec) == truth
    assert task.parse(task.target(sample, "direct"), sample, spec) == truth
