from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from crab_lightning.data.manifests.split import carve_validation, clips_of
from crab_lightning.structures import Sample


def sample(dataset: str, row: int, *clips: str) -> Sample:
    return Sample(
        f"{dataset}/{row}", dataset, "task", "train", clips[0], clips=clips, audios=(Path(clips[0]),)
    )


def both_sides(rows: dict[str, list[Sample]], sides: dict[str, list[bool]]) -> set[str]:
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for name, samples in rows.items():
        for one, side in zip(samples, sides[name], strict=True):
            seen[side].update(clips_of(one))
    return seen[True] & seen[False]


def world() -> dict[str, list[Sample]]:
    return {
        "s4": [sample("s4", i, f"avs{i // 5}") for i in range(500)],
        "arig": [sample("arig", i, f"avs{i // 4}") for i in range(500)],
        "a2v": [sample("a2v", i, f"vgg{2 * i}", f"vgg{2 * i + 1}") for i in range(300)],
        "v2a": [sample("v2a", i, f"vgg{3 * i}", f"vgg{3 * i + 2}") for i in range(150)],
        "mer24": [sample("mer24", i, f"mer{i}") for i in range(400)],
    }


def test_no_recording_is_on_both_sides_in_any_dataset() -> None:
    rows = world()
    sides = carve_validation(rows, 0.2, 1).validation
    assert not both_sides(rows, sides)
    for name, side in sides.items():
        assert 0.1 < sum(side) / len(rows[name]) < 0.32, name


def test_sides_do_not_depend_on_the_order_of_rows_or_datasets() -> None:
    rows = world()
    turned = {name: rows[name][::-1] for name in reversed(rows)}
    sides, again = carve_validation(rows, 0.1, 1), carve_validation(turned, 0.1, 1)
    assert {name: side[::-1] for name, side in again.validation.items()} == sides.validation


def test_single_clip_datasets_keep_their_split_whatever_is_mixed_in() -> None:
    rows = world()
    alone = carve_validation({"mer24": rows["mer24"]}, 0.1, 1).validation["mer24"]
    assert carve_validation(rows, 0.1, 1).validation["mer24"] == alone


def test_seed_chooses_the_split() -> None:
    rows = world()
    assert carve_validation(rows, 0.1, 1) != carve_validation(rows, 0.1, 2)


@pytest.mark.parametrize("count", [2, 5])
def test_small_dataset_still_gets_validation_and_training_rows(count: int) -> None:
    for seed in range(20):
        rows = {"few": [sample("few", i, f"clip{i}") for i in range(count)]}
        side = carve_validation(rows, 0.01, seed).validation["few"]
        assert 0 < sum(side) < count


@pytest.mark.parametrize("seed", range(20))
def test_no_dataset_is_left_without_training_rows(seed: int) -> None:
    rows = {
        "one": [sample("one", 0, "clip0")],
        "two": [sample("two", 0, "clip0"), sample("two", 1, "clip1")],
        "three": [sample("three", i, f"clip{i}") for i in range(1, 3)],
    }
    sides = carve_validation(rows, 0.6, seed).validation
    assert not both_sides(rows, sides)
    assert all(not all(side) for side in sides.values())
    assert any(sides["two"]) or any(sides["three"])


def test_val_share_zero_sets_nothing_aside() -> None:
    assert not any(any(side) for side in carve_validation(world(), 0.0, 0).validation.values())


def chain(length: int) -> Sequence[Sample]:
    return [sample("a2v", i, f"vgg{i}", f"vgg{i + 1}") for i in range(length)]


def test_pairs_that_tie_everything_together_stay_in_training_and_are_named() -> None:
    rows = {"a2v": list(chain(100)), "ks": [sample("ks", i, f"ks{i}") for i in range(100)]}
    carved = carve_validation(rows, 0.05, 0)
    assert carved.unsplit == {"a2v": 100}
    assert not any(carved.validation["a2v"])
    assert any(carved.validation["ks"])
