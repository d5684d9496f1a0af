from itertools import pairwise

import numpy as np
import pytest

from crab_lightning.mini.world.scenes import (
    Motion,
    Scene,
    SceneObject,
    balanced,
    covers,
    intersect,
    place_objects,
    rng_for,
)


def test_intervals_are_half_open() -> None:
    assert [covers(((2, 4),), t) for t in (1.9, 2.0, 3.9, 4.0)] == [False, True, True, False]


def test_a_frame_time_just_below_a_whole_second_counts_as_that_second() -> None:
    assert covers(((3, 4),), 2.9999999)
    assert not covers(((2, 3),), 2.9999999)


def test_intersection_of_two_lists_of_intervals() -> None:
    assert intersect(((0, 4), (6, 10)), ((2, 8),)) == ((2, 4), (6, 8))


def test_a_hop_goes_right_and_back_every_second() -> None:
    motion = Motion("hop", 0.1)
    assert [motion.offset(t)[0] for t in (0.0, 0.9, 1.0, 1.9, 2.0)] == [0.0, 0.0, 0.1, 0.1, 0.0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_placed_objects_are_large_inside_the_frame_and_apart(count: int) -> None:
    for seed in range(60):
        objects = place_objects(np.random.default_rng(seed), list(range(count)), duration_s=5)
        for time_s in (0.0, 1.0):
            columns = []
            for o in objects:
                x = (o.x + o.motion.offset(time_s)[0]) * 224
                assert o.size * 224 >= 45
                columns.append((x - o.size * 112, x + o.size * 112))
                assert columns[-1][0] >= 0
                assert columns[-1][1] <= 224
                assert o.size * 112 <= o.y * 224 <= 224 - o.size * 112
            columns.sort()
            assert all(a[1] <= b[0] for a, b in pairwise(columns))


def test_more_than_three_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 3 objects"):
        place_objects(np.random.default_rng(0), [0, 1, 2, 3], duration_s=5)


def test_every_block_of_a_balanced_sequence_holds_each_choice_once() -> None:
    drawn = [balanced(3, i, 5, "x") for i in range(20)]
    assert all(sorted(drawn[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 20, 5))
    assert drawn[:5] != drawn[5:10] or drawn[5:10] != drawn[10:15]


def test_random_streams_differ_by_key_and_repeat() -> None:
    first = rng_for(0, "ave", "train", 1).random()
    assert first == rng_for(0, "ave", "train", 1).random()
    assert len({first, *(rng_for(*k).random() for k in ((1, "ave", "train", 1), (0, "ave", "test", 1)))}) == 3


def test_objects_in_view_are_listed_from_left_to_right() -> None:
    scene = Scene((SceneObject("dog", x=0.8, seen=((0, 2),)), SceneObject("cat", x=0.2, seen=((0, 1),))), 2)
    assert scene.seen_at(0.5) == [1, 0]
    assert scene.seen_at(1.5) == [0]
