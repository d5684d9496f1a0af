import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crab_lightning.segmentation.prompts import (
    Prompt,
    circle_iou,
    enclosing_box,
    inscribed_circles,
    prompt_of,
    prompt_text,
)

MASKS = arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8)))


def brute_radius(mask: np.ndarray, row: int, column: int) -> float:
    """Distance to the nearest pixel outside, by looking at every one."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    return float(np.sqrt(((outside - (row + 1, column + 1)) ** 2).sum(1).min()))


def iou(first: tuple[int, int, float], second: tuple[int, int, float]) -> float:
    distance = math.hypot(first[0] - second[0], first[1] - second[1])
    return float(circle_iou(np.array(first[2]), second[2], np.array(distance)))


def brute_circles(mask: np.ndarray, count: int, bound: float) -> list[tuple[int, int, float]]:
    """The stated rule, one pixel after the other."""
    centre = np.argwhere(mask).mean(0) if mask.any() else (0, 0)
    every = [(int(x), int(y), brute_radius(mask, y, x)) for y, x in np.argwhere(mask)]
    chosen: list[tuple[int, int, float]] = []
    while len(chosen) < count:
        free = [c for c in every if all(iou(c, o) <= bound for o in chosen)]
        if not free:
            break

        def rank(c: tuple[int, int, float]) -> tuple[float, float, int, int]:
            if chosen:
                near = -min(math.hypot(c[0] - o[0], c[1] - o[1]) for o in chosen)
            else:
                near = math.hypot(c[1] - centre[0], c[0] - centre[1])
            return -c[2], round(near, 6), c[1], c[0]

        chosen.append(min(free, key=rank))
    return chosen


@settings(max_examples=120, deadline=None)
@given(MASKS, st.sampled_from([0.0, 0.1, 0.3, 0.7]))
def test_circles_are_those_of_brute_force(mask: np.ndarray, bound: float) -> None:
    found, expected = inscribed_circles(mask, 3, bound), brute_circles(mask, 3, bound)
    assert [c[:2] for c in found] == [c[:2] for c in expected]
    assert [c[2] for c in found] == pytest.approx([c[2] for c in expected])


@settings(max_examples=120, deadline=None)
@given(MASKS, st.floats(0, 0.9))
def test_circles_lie_inside_shrink_and_hold_the_bound(mask: np.ndarray, bound: float) -> None:
    circles = inscribed_circles(mask, 3, bound)
    assert bool(circles) == bool(mask.any())
    for x, y, radius in circles:
        rows, columns = np.indices(mask.shape)
        assert mask[y, x]
        assert mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2 - 1e-9].all()
    assert all(a[2] >= b[2] for a, b in itertools.pairwise(circles))
    assert all(iou(a, b) <= bound + 1e-12 for a, b in itertools.combinations(circles, 2))


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_box_is_the_smallest_that_encloses(mask: np.ndarray) -> None:
    cells = np.argwhere(mask)
    box = enclosing_box(mask)
    if not len(cells):
        assert box is None
    else:
        (y1, x1), (y2, x2) = cells.min(0), cells.max(0)
        assert box == (x1, y1, x2, y2)


@pytest.mark.parametrize(
    ("radius", "other", "distance"), [(3, 3, 2), (5, 2, 4.5), (4, 1, 1), (2, 2, 5), (2, 2, 0)]
)
def test_circle_iou_is_the_share_of_sampled_area(radius: float, other: float, distance: float) -> None:
    axis = np.linspace(-8, 14, 2200)
    x, y = axis[None], axis[:, None]
    first, second = x**2 + y**2 <= radius**2, (x - distance) ** 2 + y**2 <= other**2
    sampled = (first & second).sum() / (first | second).sum()
    found = circle_iou(np.array(float(radius)), float(other), np.array(float(distance)))
    assert float(found) == pytest.approx(sampled, abs=2e-3)


def drawn(*lines: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in lines])


def test_empty_mask_has_no_prompt() -> None:
    assert prompt_of(np.zeros((4, 4), bool)) is None


def test_one_pixel_has_a_box_of_one_pixel_and_one_point() -> None:
    assert prompt_of(drawn("....", "..#.", "....")) == Prompt((2, 1, 2, 1), ((2, 1),))


def test_a_line_has_its_points_spread_out() -> None:
    mask = np.zeros((3, 21), bool)
    mask[1] = True
    assert prompt_of(mask) == Prompt((0, 1, 20, 1), ((10, 1), (0, 1), (20, 1)))


def test_points_of_a_ring_lie_in_its_band() -> None:
    rows, columns = np.indices((41, 41)) - 20
    far = np.hypot(rows, columns)
    prompt = prompt_of((far <= 20) & (far >= 10))
    assert prompt is not None
    assert len(prompt.points_xy_px) == 3
    assert all(10 <= math.hypot(x - 20, y - 20) <= 20 for x, y in prompt.points_xy_px)


def test_several_parts_share_one_box_and_the_widest_part_comes_first() -> None:
    mask = np.zeros((20, 40), bool)
    mask[2:7, 2:7] = True
    mask[5:18, 24:37] = True
    prompt = prompt_of(mask)
    assert prompt is not None
    assert prompt.box_xyxy_px == (2, 2, 36, 17)
    assert prompt.points_xy_px[0] == (30, 11)


def test_the_image_edge_counts_as_background() -> None:
    assert inscribed_circles(np.ones((5, 9), bool), 1) == [(4, 2, 3.0)]


def test_the_same_mask_gives_the_same_points() -> None:
    mask = np.random.default_rng(0).random((60, 60)) > 0.2
    assert prompt_of(mask) == prompt_of(np.asfortranarray(mask))


def test_a_bound_of_zero_keeps_circles_apart() -> None:
    circles = inscribed_circles(np.ones((40, 40), bool), 3, 0.0)
    assert all(
        math.hypot(a[0] - b[0], a[1] - b[1]) >= a[2] + b[2] for a, b in itertools.combinations(circles, 2)
    )


def test_prompts_scale_from_the_frame_to_the_image() -> None:
    prompt = Prompt((0, 0, 223, 223), ((0, 111), (223, 223)))
    scaled = prompt.scaled((224, 224), (448, 672))
    assert scaled.box_xyxy_px == (0, 0, 671, 447)
    assert scaled.points_xy_px == ((1.0, 222.5), (670.0, 446.5))
    assert prompt.scaled((224, 224), (224, 224)) is prompt


def test_prompt_text_has_no_blanks() -> None:
    assert prompt_text(Prompt((1, 2, 30, 40), ((5, 6), (7, 8)))) == ("[1,2,30,40]", "[5,6],[7,8]")


@pytest.mark.parametrize("bad", [np.zeros((2, 2), int), np.zeros((1, 2, 2), bool)])
def test_what_is_no_mask_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"it must be bool \(height, width\)"):
        prompt_of(bad)
