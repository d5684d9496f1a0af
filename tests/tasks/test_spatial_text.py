"""Boxes and points in free text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crab_lightning.tasks.spatial_text import (
    Reading,
    SpatialPrompt,
    coordinate_groups,
    read_box,
    read_box_and_points,
    read_referred_object,
)

READERS = {"s4_ms3": read_box_and_points, "ref_avs": read_referred_object}


def test_every_case_of_the_released_scripts(oracles: Path) -> None:
    cases = json.loads((oracles / "seg_prompt_parse.json").read_text())["cases"]
    assert len(cases) == 17
    for case in cases:
        reading = READERS[case["inputs"]["variant"]](case["inputs"]["text"])
        prompt = reading.prompt or SpatialPrompt()
        box = None if prompt.box_xyxy_px is None else list(prompt.box_xyxy_px)
        found = {"status": reading.status, "bbox": box, "points": [list(p) for p in prompt.points_xy_px]}
        assert found == case["expected"], case["name"]


def test_the_released_pipeline_rejects_the_same_answers(oracles: Path) -> None:
    cases = json.loads((oracles / "seg_pipeline_crabplus.json").read_text())["cases"]
    for case in cases:
        read = READERS[case["inputs"]["variant"]]
        readings = [read(item["text"]) for item in case["inputs"]["items"]]
        invalid = [[i, r.status] for i, r in enumerate(readings) if r.prompt is None]
        assert invalid == case["expected"]["invalid"], case["name"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[30, 40, 120, 200] [60, 80]", SpatialPrompt((30, 40, 120, 200), ((60, 80),))),
        ("[30.5,40.4,120,200] [60,80.5]", SpatialPrompt((31, 40, 120, 200), ((60, 81),))),
        ("[30,40,224,224] [60,80]", SpatialPrompt((30, 40, 223, 223), ((60, 80),))),
        ("[0.1,0.2,0.5,1.0] [0.25,0.5]", SpatialPrompt((22, 45, 112, 223), ((56, 112),))),  # shares of 224
        ("[0,0.25,1,1] [60,80]", SpatialPrompt((0, 56, 223, 223), ((60, 80),))),
        ("[0.5,0.5,0.9,0.9] [1,1]", SpatialPrompt((112, 112, 202, 202), ((223, 223),))),
        ("[1,1,2.0,2] [1,1]", SpatialPrompt((1, 1, 2, 2), ((1, 1),))),  # beyond 1, so pixels
    ],
)
def test_lenient_reading_accepts_what_strict_reading_rejects(text: str, expected: SpatialPrompt) -> None:
    assert read_box_and_points(text).prompt is None
    assert read_box_and_points(text, lenient=True) == Reading("ok", expected)


def test_digits_of_any_script_are_read_as_the_released_scripts_read_them() -> None:
    prompt = SpatialPrompt((30, 40, 120, 200), ((60, 80),))
    for text in ("[３０,４０,１２０,２００] [６０,８０]", "[٣٠,٤٠,١٢٠,٢٠٠] [٦٠,٨٠]"):
        assert read_box_and_points(text).prompt == prompt
        assert read_box(text) == prompt.box_xyxy_px


@pytest.mark.parametrize(
    "text", ["[30,40,225,200] [60,80]", "[224,40,224,200] [60,80]", "[1,2,3,4] [224,80]", "[1,-2,3,4]"]
)
def test_lenient_reading_still_rejects_what_lies_outside(text: str) -> None:
    assert read_box_and_points(text, lenient=True).prompt is None


@pytest.mark.parametrize(
    "text", ["[9,9,4,20][5,5]", "[4,20,9,20][5,5]", "[1,2,3,99999999999999999999][1,1]", "(1,2,3,4)(1,1)"]
)
def test_boxes_that_enclose_nothing_are_rejected(text: str) -> None:
    assert read_box_and_points(text).prompt is None


def test_groups_are_returned_as_written() -> None:
    assert coordinate_groups("box [1,2,30,40], at [5,6] not [7] nor [1,2,3]</s>[9,9]") == [
        "[1,2,30,40]",
        "[5,6]",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog is at <obj>(113,93)(130,131)</obj>.", (113, 93, 130, 131)),
        ("It sits at (3, 4). <obj>( 113 , 93 ) (130,131)</obj>", (113, 93, 130, 131)),
        ("(1,2)(3,4) and (5,6)(7,8)", (1, 2, 3, 4)),
        ("[1, 2, 30, 40]", (1, 2, 30, 40)),
        ("<obj>(5,6)(7,8)</obj> [1,2,30,40]", (1, 2, 30, 40)),
        ("<obj>(5,6)</obj> (1,1)", (5, 6, 1, 1)),
        ("[1000,0,0,0]", (1000, 0, 0, 0)),
        ("(1,2)", None),
        ("[1,2] [3,4]", None),
        ("[1,2,3]", None),
        ("[-1,2,3,4]", None),
        ("[1.5,2,3,4]", None),
        ("</s>[1,2,3,4]", None),
        ("", None),
    ],
)
def test_a_box_is_four_bracketed_numbers_or_two_pairs(text: str, expected: tuple[int, ...] | None) -> None:
    assert read_box(text) == expected


@given(st.text(alphabet="[](),.0123456789 <obj>/-answertruefalse", max_size=120))
def test_reading_never_fails_and_stays_inside_the_frame(text: str) -> None:
    read_box(text)
    for lenient in (False, True):
        for read in READERS.values():
            prompt = read(text, lenient=lenient).prompt
            if prompt is not None:
                numbers = [*(prompt.box_xyxy_px or ()), *(c for point in prompt.points_xy_px for c in point)]
                assert all(0 <= number < 224 for number in numbers)
                assert len(prompt.points_xy_px) <= 3
