"""The numbers of ``build stats`` on rows written by hand, and the page on a whole Mini tree."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crab_lightning.builder import IMPORTERS, read_statistics, write_statistics
from crab_lightning.builder.statistics import PAPER_TASKS, Lengths
from crab_lightning.builder.statistics_page import page_text
from crab_lightning.commands import main
from tests.builder.trees import mixture

HOSTILE = "<script>alert('x')</script>"


def save(root: Path, task: str, rows: list[dict[str, Any]], split: str = "train") -> None:
    path = root / "AVUIE_2" / task / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """AVE, UnAV-100 and Kinetics-Sounds, a few rows each, without media."""
    files = {"video_path": "a.mp4", "audio_path": "a.mp3"}
    other = {"video_path": "b.mp4", "audio_path": "b.mp3"}
    ave = {**files, "event": "Bus", "vid": "a", "start_time": 2, "end_time": 5}
    reasoned = "I see and hear a bus, so that <event>Bus, (2 5)</event>"
    rows = [
        {**ave, "label_content": reasoned},
        {**ave, "label_content": reasoned},
        {**ave, "event": "Clock", "label_content": "<event>Clock, (2 5)</event>"},
        {**ave, **other, "label_content": "<event>Bus, (2 5)</event>"},
        {**ave, "start_time": "soon", "label_content": "unreadable"},
    ]
    save(tmp_path, "ave", rows)
    save(tmp_path, "ave", [{**ave, **other}], "test")
    label = "<event>Bus, (0 3)(7 10)</event><event>Clock, (1 2)</event>"
    save(tmp_path, "unav", [{**files, "vid": "a", "original_label": label, "label_content": label}])
    save(tmp_path, "ks", [{**files, "action": HOSTILE, "label": f"<answer>{HOSTILE}</answer>"}] * 3)
    return tmp_path


def test_the_numbers_are_those_of_the_rows(root: Path) -> None:
    found = read_statistics(root, *mixture())
    by_name = {one.name: one for one in found.datasets}
    ave = by_name["ave"]
    assert (ave.train, ave.test, ave.unreadable, ave.reasoned) == (4, 1, 1, 2)
    assert ave.text_words == Lengths(4, 7.0, 3.0, 7.0, 11.0, 11.0)
    assert ave.answer_words == Lengths(4, 3.0, 3.0, 3.0, 3.0, 3.0)
    assert ave.classes == {"Bus": 3, "Clock": 1}
    shares = (0.75, 0.25)
    assert ave.balance == pytest.approx(-sum(s * math.log2(s) for s in shares))
    assert (ave.repeated, ave.contradicting, ave.leaked, ave.recordings) == (2, 1, 1, 2)
    assert (ave.media, ave.files) == ({"1 video, 1 sound": 4}, {"video": 2, "sound": 2})
    unav = by_name["unav"]
    assert unav.event_lengths == {1: 1, 3: 2}
    assert unav.events_per_clip is not None
    assert unav.events_per_clip.mean == 3
    assert unav.test is None
    lines = [(line.task, line.title, line.train, line.paper_k) for line in found.composition]
    assert lines == [
        ("Action recognition", "Kinetics-Sounds", 3, 20.1),
        ("Event localization and parsing", "UnAV-100", 1, 4.9),
        ("Event localization and parsing", "AVE", 4, 3.3),
    ]
    assert "MELD" in found.absent
    assert len(found.absent) == 14


def test_table_1_of_the_paper_is_complete() -> None:
    names = [name for group in PAPER_TASKS.values() for name in group]
    assert names == list(IMPORTERS)
    assert len(names) == 17
    assert sum(one.paper_k for one in IMPORTERS.values()) == pytest.approx(222.0)
    tasks = [task for one in IMPORTERS.values() for task in one.tasks]
    assert sorted(tasks) == sorted(mixture()[1])


def test_texts_of_manifests_are_shown_and_never_run(root: Path) -> None:
    text = page_text(read_statistics(root, *mixture()))
    assert HOSTILE not in text
    assert "&lt;script&gt;alert" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)


def test_a_dataset_of_ones_own_has_a_line_of_its_own(root: Path) -> None:
    from dataclasses import replace

    tasks, specs = mixture()
    own = {"my_clips": replace(specs["ave"], folder="ave"), "ks": specs["ks"]}
    lines = read_statistics(root, tasks, own).composition
    assert [(line.task, line.title, line.paper_k) for line in lines] == [
        ("Action recognition", "Kinetics-Sounds", 20.1),
        ("Not in the paper", "my_clips", None),
    ]


def test_the_command_writes_page_pictures_and_numbers(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["build", "stats", "--root", str(small["mini"]), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"MUSIC-AVQA +2 +31\.9 K in the paper", told)
    assert "Missing datasets" not in told
    pictures = sorted(out.glob("*.png"))
    assert [p.stem for p in pictures] == ["classes", "composition", "event_lengths", "text_lengths"]
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
    text = (out / "statistics.html").read_text()
    assert text.count("data:image/png;base64,") == 4
    numbers = json.loads((out / "statistics.json").read_text())
    assert len(numbers["datasets"]) == 19
    assert len(numbers["composition"]) == 17
    assert main(["build", "stats", "--root", str(tmp_path)]) == 1
    assert "there is no AVUIE_2/<dataset>/train.json of a2v" in capsys.readouterr().err


def test_pictures_are_left_out_where_there_are_no_numbers(root: Path, tmp_path: Path) -> None:
    tasks, specs = mixture()
    found = read_statistics(root, tasks, {"ks": specs["ks"]})
    files = write_statistics(found, tmp_path / "out")
    assert {path.name for path in files} == {
        "statistics.html", "statistics.json", "composition.png", "text_lengths.png",
    }  # fmt: skip
