"""Whatever stands in the files of a run is shown as text: no field of it becomes markup of the page."""

from __future__ import annotations

import contextlib
from html.parser import HTMLParser
from typing import Any

import pytest

from crab_lightning.reports.page import Card, DatasetPart, Page, Still, render

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"

RECORD: dict[str, Any] = {
    "id": "ave/test/0",
    "prompt": "<video> what?",
    "answer": "<answer>x</answer>",
    "parsed": {"box_xyxy_px": [1, 2, 3, 4], "points_xy_px": [[1, 2]], "absent": False},
    "truth": {"box_xyxy_px": [1, 2, 3, 4], "points_xy_px": [[5, 6]]},
    "reference": "r",
    "score": 0.5,
    "truncated": True,
    "candidates": [{"text": "a", "probability": 0.5}],
    "choice_right": False,
    "spans": [{"event": "dog", "start_s": 0.0, "end_s": 1.0}, ["cat", 1, 2]],
}
ENTRY: dict[str, Any] = {
    "task": "event_localization",
    "layout": "ave",
    "headline": "accuracy",
    "note": "n",
    "strict": {"accuracy": 0.5, "accuracy_a": 0.1},
    "valid_only": {"accuracy": 0.5},
    "majority": {"accuracy": 0.2},
    "counts": {"scored": 1, "unparsed": 0, "truncated": 0, "missing": 0, "loss_samples": 0, "weighed": 0},
    "loss": None,
}


class Markup(HTMLParser):
    """Counts what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        self.found += [f"{tag} src" for name, value in attrs if name == "src" and value == "x"]


def replaced(node: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy with the value at a path replaced by what should not run."""
    if not path:
        return EVIL
    copy = list(node) if isinstance(node, list) else dict(node)
    copy[path[0]] = replaced(node[path[0]], path[1:])
    return copy


def paths(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return every place of a tree, leaves and branches."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [above, *(place for key, child in inside for place in paths(child, (*above, key)))][not above :]


def page_of(record: dict[str, Any], entry: dict[str, Any], text: str = "plain") -> str:
    stills = [
        Still("data:,", "image", text),
        Still("data:,", "sound", text, 4.0),
    ]
    events = record | {"truth": record["spans"], "parsed": {text: record["spans"]}}
    cards = [Card(record, stills, text), Card(events, stills)]
    part = DatasetPart(text, text, entry, [record, record | {"truth": "b"}], cards, text)
    return render(Page(text, {text: text}, {"mean": {}}, [part], {text: [(0.0, 1.0), (1.0, 2.0)]}, [text]))


def hostile(html: str) -> list[str]:
    parser = Markup()
    parser.feed(html)
    return parser.found + ["script"] * (parser.scripts - 1)  # the page has one of its own


@pytest.mark.parametrize("path", paths(RECORD), ids=str)
def test_no_field_of_a_record_becomes_markup(path: tuple[Any, ...]) -> None:
    with contextlib.suppress(
        TypeError, ValueError, KeyError, AttributeError
    ):  # refused is as good as escaped
        assert hostile(page_of(replaced(RECORD, path), ENTRY)) == []


@pytest.mark.parametrize("path", paths(ENTRY), ids=str)
def test_no_field_of_the_scores_becomes_markup(path: tuple[Any, ...]) -> None:
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
        assert hostile(page_of(RECORD, replaced(ENTRY, path))) == []


def test_names_and_paths_become_no_markup_and_the_sweep_can_fail() -> None:
    assert hostile(page_of(RECORD, ENTRY, EVIL)) == []
    named = ENTRY | {"strict": {EVIL: 0.5}, "headline": EVIL, "task": EVIL}
    assert hostile(page_of(RECORD, named)) == []
    assert hostile(page_of(RECORD, ENTRY).replace("plain", EVIL)) != []
