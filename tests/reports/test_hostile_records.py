"""Whatever stands in the files of a run is shown as text: no field of it becomes markup of the page."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import crab_lightning
from crab_lightning.builder.statistics import Composition, DatasetStatistics, Lengths, Statistics
from crab_lightning.builder.statistics_page import page_text
from crab_lightning.reports.page import Card, DatasetPart, Page, Still, render
from crab_lightning.reports.showcase_page import Lane, Panel, Showcase, html_page
from crab_lightning.reports.tables import PlainTable
from crab_lightning.segmentation import Overlay
from crab_lightning.studies.report import _page as study_page

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


def hostile(html: str, own_scripts: int = 1) -> list[str]:
    parser = Markup()
    parser.feed(html)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:; ")
    # The one script that may run is the page's own, by its hash; where there is none, none may.
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-own_scripts:] if own_scripts else []
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.findall(r"script-src (.*?)$", policy[1]) == [f"'sha256-{one}'" for one in hashes]
    return parser.found + ["script"] * (parser.scripts - own_scripts)


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


def showcase_page() -> str:
    """Every text of a showcase, file names, questions, answers and notes, is hostile."""
    names = ("task", "dataset", "asked", "answer", "said", "note")
    card = Panel(**dict.fromkeys(names, EVIL), lanes=[Lane(EVIL, [(EVIL, 0.0, 1.0)]), Lane(EVIL, [], EVIL)])
    panels = [card, replace(card, overlay=Overlay(torch.zeros(3, 8, 8, dtype=torch.uint8), None, None, None))]
    panels.append(Panel(EVIL, EVIL, why_not=EVIL))
    return html_page(
        Showcase(
            title=EVIL, facts={EVIL: EVIL}, stills=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), times_s=[0.0],
            duration_s=2.0, sound_s=1.0, mel=torch.rand(4, 8), panels=panels, played=EVIL,
        )
    )  # fmt: skip


def study_report_page() -> str:
    study = SimpleNamespace(
        name=EVIL, datasets=[EVIL], arms={EVIL: 1}, seeds=[EVIL], equal=(EVIL, EVIL), cells=lambda: [1]
    )
    table = PlainTable(EVIL, ["dataset", EVIL], [["ks", EVIL]], [EVIL], names={"ks": EVIL})
    states = {EVIL: SimpleNamespace(status=EVIL), EVIL + "2": SimpleNamespace(status="damaged", detail=EVIL)}
    results: Any = SimpleNamespace(study=study, unfinished=states, transfers=(), deviations={})
    return study_page(results, {"gains-" + EVIL: table}, {"gains": b"", "conflict-" + EVIL: b""}, 10, 0)


def statistics_page(tmp_path: Path) -> str:
    lengths = Lengths(1, 1.0, 1.0, 1.0, 1.0, 1.0)
    one = DatasetStatistics(
        EVIL, EVIL, text_words=lengths, classes={EVIL: 1}, events_per_clip=lengths, event_s=lengths,
        media={EVIL: 1}, files={EVIL: 1},
    )  # fmt: skip
    (tmp_path / "a.png").touch()
    found = Statistics(EVIL, [one], [Composition(EVIL, EVIL, 1, 1, 2.0)], [EVIL])
    return page_text(found, [(EVIL, tmp_path / "a.png")])


def test_no_text_of_the_other_pages_becomes_markup(tmp_path: Path) -> None:
    for page, scripts in ((showcase_page(), 1), (study_report_page(), 0), (statistics_page(tmp_path), 0)):
        assert page.count("&lt;script&gt;alert(1)") > 8
        assert hostile(page, scripts) == []
        assert hostile(page.replace("<h1>", f"<h1>{EVIL}"), scripts) != []


def test_templates_are_the_only_place_that_makes_pages() -> None:
    package = Path(crab_lightning.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    assert [n for n, text in sources.items() if re.search(r"from jinja2|import jinja2", text)] == [
        "templates.py"
    ]
    # Texts of TensorBoard are Markdown, and no page.
    escaping = [n for n, text in sources.items() if re.search(r"from html import|import html$", text, re.M)]
    assert escaping == ["runs/boards.py"]
    assert [n for n, text in sources.items() if re.search(r"</(?:div|td|p|span|svg|body)>", text)] == []
    assert all("autoescape false" not in path.read_text() for path in package.rglob("*.j2"))
    assert [p.name for p in package.rglob("*.j2") if re.search(r"\|\s*safe\b", p.read_text())] == []
