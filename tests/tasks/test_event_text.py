"""Events and spans in free text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crab_lightning.tasks import EventSpan
from crab_lightning.tasks.event_text import (
    merged_runs,
    modal_blocks,
    read_events,
    read_modal_events,
    segment_classes,
    whole_span,
)
from tests.tasks.released import AVE_CLASSES, LLP_CLASSES


def events(text: str) -> list[tuple[str, int, int]]:
    return [(e.name, e.start_s, e.end_s) for e in read_events(text, 10)]


def test_every_case_of_the_localization_convention(oracles: Path) -> None:
    oracle = json.loads((oracles / "ave_text.json").read_text())
    assert oracle["class_names"] == list(AVE_CLASSES)
    for case in oracle["cases"]:
        found = segment_classes(read_events(case["inputs"]["text"], 10), AVE_CLASSES, 10)
        assert found == case["expected"]["segments"], case["name"]


def test_every_case_of_the_parsing_convention(oracles: Path) -> None:
    oracle = json.loads((oracles / "avvp_text.json").read_text())
    assert oracle["class_names"] == list(LLP_CLASSES)
    for case in oracle["cases"]:
        read = read_modal_events(case["inputs"]["text"], 10)
        for side in ("audio", "visual"):
            runs = merged_runs((e for modality, e in read if modality == side), LLP_CLASSES, 10)
            found = [[LLP_CLASSES.index(e.name), e.start_s, e.end_s] for e in runs]
            assert found == case["expected"][side], case["name"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<event>Violin, fiddle, (0 10)</event>.", [("Violin, fiddle", 0, 10)]),
        ("<event>Frying (food), (3 7)</event>", [("Frying (food)", 3, 7)]),
        ("<event>Frying (food) (3 7)</event>", [("Frying (food)", 3, 7)]),
        ("<event>people eating, (0 3)(7 10)</event>", [("people eating", 0, 3), ("people eating", 7, 10)]),
        ("<event>a, (0 3), (7, 10)</event>", [("a", 0, 3), ("a", 7, 10)]),
        ("<event>a, (0 1)</event><event>b, c, (1-2)</event>", [("a", 0, 1), ("b, c", 1, 2)]),
        ("<event>a, (0 1)</event><event>b</event><range>2 to 3</range>", [("a", 0, 1), ("b", 2, 3)]),
        ("<event>a</event><range>0-2, 4-6</range>", [("a", 0, 2), ("a", 4, 6)]),
        ("event: a start time: 1, end time: 3 event:b start_time:4 end_time:5", [("a", 1, 3), ("b", 4, 5)]),
        ("The event: loud. event:Bus start_time:1 end_time:3", [("Bus", 1, 3)]),
    ],
)
def test_names_and_spans_are_read_in_every_spelling(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert events(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<event>Cat</event>",
        "<range>0,5</range>",
        "<event>Cat</range> 0,5",
        "<event>Cat</event><range>-3,5</range>",
        "<event>Cat</event><range>5</range>",
        "<event>Cat, (5 5)</event>",
        "<event>Cat, (12 15)</event>",
        "<event>Cat, (7 3)</event>",
        "<event>Cat, (one two)</event>",
        "<event>Cat, (1 2 3)</event>",
        "<event>Cat, (1 99999999999)</event>",
        "<event>Cat</event></s><range>0,5</range>",
        "event:Cat start_time:x end_time:3",
        "<event>Cat event:Cat start_time:1 end_time:3",
    ],
)
def test_texts_without_a_span_inside_the_clip_give_no_event(text: str) -> None:
    assert events(text) == []


def test_spans_are_rounded_half_up_and_clipped() -> None:
    assert whole_span(1.5, 3.4, 10) == (2, 3)
    assert whole_span(0.49, 99, 10) == (0, 10)
    assert whole_span(2.5, 2.6, 10) is None


def test_a_modality_has_to_close_what_it_opened() -> None:
    assert modal_blocks("<visual>Dog,(0 1)</audio>") == []
    assert modal_blocks("<VISUAL>Dog,(0 1)</visual_event>") == [("visual", "visual", "Dog,(0 1)")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Dog,(2 5);Cat,(6 8)", [("Dog", 2, 5), ("Cat", 6, 8)]),
        ("Dog,(2 5), Cat,(6 8),(9 10)", [("Dog", 2, 5), ("Cat", 6, 8), ("Cat", 9, 10)]),
        ("Dog (2 5) Cat (6 8)", [("Dog", 2, 5), ("Cat", 6, 8)]),
        ("Dog,(2 5),(6 8)", [("Dog", 2, 5), ("Dog", 6, 8)]),
        ("Dog,(2 5) and (6 8)", [("Dog", 2, 5), ("Dog", 6, 8)]),
        ("Dog,(2 5) & Cat, loud (6 8)", [("Dog", 2, 5), ("Cat", 6, 8)]),
        ("(2 5);Cat,(6 8)", [("Cat", 6, 8)]),
        ("Dog,(２ ５)", [("Dog", 2, 5)]),
    ],
)
def test_interval_belongs_to_the_name_before_it(body: str, expected: list[tuple[str, int, int]]) -> None:
    found = [(e.name, e.start_s, e.end_s) for _, e in read_modal_events(f"<visual>{body}</visual>", 10)]
    assert found == expected


@given(st.text(alphabet="<>/()[]0123456789 ,.-–toevntragudi_\n", max_size=200))
def test_reading_never_fails_and_stays_inside_the_clip(text: str) -> None:
    for event in [*read_events(text, 10), *(e for _, e in read_modal_events(text, 10))]:
        assert 0 <= event.start_s < event.end_s <= 10


def test_long_hostile_texts_are_read_in_linear_time() -> None:
    before = time.process_time()
    for part in (
        "<event>",
        "<event>a, (1 2)",
        "(",
        "( ",
        " ",
        "1 ",
        "1-",
        "(1 ",
        "event:",
        "start_time:1 ",
        "<visual>",
    ):
        text = part * 20_000
        for body in (
            text,
            f"<event>{text}</event>",
            f"<visual>{text}</visual>",
            f"<event>a</event><range>{text}</range>",
        ):
            read_events(body, 10)
            read_modal_events(body, 10)
    assert time.process_time() - before < 20


def test_unknown_names_are_kept_for_scoring_as_wrong() -> None:
    assert segment_classes([EventSpan("Dog barking", 2, 4)], AVE_CLASSES, 5) == [28, 28, -1, -1, 28]
