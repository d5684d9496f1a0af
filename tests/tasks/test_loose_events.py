"""What untrained models write of events and boxes is read under ``lenient`` alone, and said so."""

from __future__ import annotations

import pytest

from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks import EventLocalization, EventParsing, ImageGrounding
from crab_lightning.tasks.base import LENIENT
from crab_lightning.tasks.event_text import EventSpan
from crab_lightning.tasks.spatial_text import read_box

SPEC = DatasetSpec(task="x", layout="ave", classes=["Dog", "Cat"])
SAMPLE = Sample(id="x/0", dataset="x", task="x", split="test", clip="c")


@pytest.mark.parametrize(
    "text",
    [
        "<event>Dog</event><range>2s-5s</range>",
        "<event>Dog</event><range>0:02-0:05</range>",
        "<event>Dog, (2 sec, 5.0 seconds)</event>",
        'Here it is: ```json\n[{"event": "Dog", "start": 2, "end": "5 s"}]\n```',
        '{"label": "Dog", "timestamp": ["0:02", "0:05"]}',
    ],
)
def test_times_and_json_are_read_leniently_alone(text: str) -> None:
    assert EventLocalization(lenient=True).parse(text, SAMPLE, SPEC) == (EventSpan("Dog", 2, 5),)
    assert EventLocalization().parse(text, SAMPLE, SPEC) is None


def test_json_of_what_is_seen_and_heard_is_read_leniently_alone() -> None:
    text = (
        '{"visual": [{"event": "Dog", "start": 0, "end": 3}], "audio_events": '
        '[{"event": "Cat", "range": [4, 6]}], "noise": [{"event": "Cat", "start": 1, "end": 2}]}'
    )
    found = EventParsing(lenient=True).parse(text, SAMPLE, SPEC)
    assert found is not None
    assert (found.visual, found.audio) == ((EventSpan("Dog", 0, 3),), (EventSpan("Cat", 4, 6),))
    assert EventParsing().parse(text, SAMPLE, SPEC) is None


@pytest.mark.parametrize(
    "text", ["[1, 2", "[[[[", '{"event": "Dog"}', '[{"event": "Dog", "start": NaN, "end": 3}]']
)
def test_other_json_is_no_event(text: str) -> None:
    assert EventLocalization(lenient=True).parse(text, SAMPLE, SPEC) is None


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1, 0.2, 0.5, 1.0]", (22, 45, 112, 223)),
        ("(0.5,0.5)(0.75,1)", (112, 112, 168, 223)),
        ('{"bbox": [[30.5, 40], [120, 200.4]]}', (31, 40, 120, 200)),
        ("(30.5,40,120,200)", (31, 40, 120, 200)),
        ("[10,20,110,120] and [0.1,0.2,0.3,0.4]", (10, 20, 110, 120)),
    ],
)
def test_boxes_in_shares_and_decimals_are_never_taken_as_pixels(
    text: str, box: tuple[int, int, int, int]
) -> None:
    assert read_box(text, lenient=True) == box
    assert read_box(text) == (box if text.startswith("[10") else None)


def test_results_of_lenient_reading_say_so() -> None:
    for kind in (EventLocalization, EventParsing, ImageGrounding):
        assert LENIENT in str(kind(lenient=True).note(SPEC))
        assert kind().note(SPEC) is None
