from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crab_lightning.commands import main
from crab_lightning.media import write_video
from crab_lightning.reports.showcase_page import Lane
from crab_lightning.structures import AudioWindow, DatasetSpec, Prediction, Sample
from crab_lightning.tasks import (
    ActionRecognition,
    Captioning,
    CrossModalMatching,
    EventLocalization,
    EventParsing,
    ImageGrounding,
    QuestionAnswering,
    ReferringSegmentation,
    Segmentation,
)
from tests.segmentation.test_test_loop import Rectangle

UNITS = AudioWindow("units", 10)
SAYS = {
    "ks": "<answer>tap dancing</answer>",
    "a2v": "<answer>video one</answer>",
    "v2a": "<answer>audio two</answer>",
    "ave": "<event>dog & cat, (1 3)</event>",
    "avvp": "<visual>Dog,(0 2)</visual><audio>Dog,(0 2),(3 4)</audio><audio>Horn,(1 4)</audio>",
    "s4": "It is the dog. [56,56,167,167],[100,60],[90,90],[80,80]",
    "ref_avs": "<answer>false</answer>",
    "arig": "<obj>(20,30)(100,120)</obj>",
    "avcap": "A dog <barks>.",
    "avqa": "no idea at all, nothing in tags",
}


@pytest.fixture
def data() -> Any:
    """Tasks and rows of a run that was taught all of them."""
    tasks = {
        "question_answering": QuestionAnswering(),
        "action_recognition": ActionRecognition(),
        "cross_modal_matching": CrossModalMatching(),
        "event_localization": EventLocalization(),
        "event_parsing": EventParsing(),
        "segmentation": Segmentation(mask_decoder=Rectangle()),
        "referring_segmentation": ReferringSegmentation(mask_decoder=Rectangle()),
        "image_grounding": ImageGrounding(),
        "captioning": Captioning(),
    }
    rows = {
        "avqa_thu": ("question_answering", UNITS, None),
        "avqa": ("question_answering", UNITS, None),
        "ks": ("action_recognition", UNITS, ["singing", "tap dancing"]),
        "a2v": ("cross_modal_matching", UNITS, None),
        "v2a": ("cross_modal_matching", UNITS, None),
        "ave": ("event_localization", UNITS, ["dog & cat"]),
        "avvp": ("event_parsing", UNITS, ["Dog", "Horn"]),
        "s4": ("segmentation", AudioWindow("one_unit", 5), None),
        "ref_avs": ("referring_segmentation", AudioWindow("one_unit", 10), None),
        "arig": ("image_grounding", AudioWindow("one_unit", 5), None),
        "avcap": ("captioning", UNITS, None),
    }
    specs = {name: DatasetSpec(task, name, audio=audio, classes=c) for name, (task, audio, c) in rows.items()}
    return SimpleNamespace(tasks=tasks, datasets=specs, taught=list(specs))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, data: Any) -> dict[str, Sample]:
    """What a run is asked that answers every dataset with one sentence."""
    samples: dict[str, Sample] = {}

    def load_run(*_: Any, check: Any) -> tuple[None, Any]:
        check(data)
        return None, data

    def put(model: Any, data: Any, sample: Sample) -> Prediction:
        samples[sample.dataset] = sample
        return Prediction(sample, SAYS[sample.dataset])

    monkeypatch.setattr("crab_lightning.inference.loading.load_run", load_run)
    monkeypatch.setattr("crab_lightning.inference.answer.put", put)
    return samples


def clip(path: Path) -> Path:
    write_video(path, np.full((8, 48, 64, 3), 90, np.uint8), 2, 0.1 * torch.randn(64_000))
    return path


def showcase(tmp_path: Path, *words: str) -> tuple[dict[str, dict[str, Any]], str]:
    out = tmp_path / "out"
    video = clip(tmp_path / "clip.mp4")
    assert main(["showcase", "--video", str(video), "--checkpoint", "run", "--out", str(out), *words]) == 0
    assert Image.open(out / "showcase.png").size[0] > 1000
    answers = json.loads((out / "showcase.json").read_text())["answers"]
    return {a["dataset"]: a for a in answers}, (out / "showcase.html").read_text()


def test_every_task_is_asked_about_one_clip(tmp_path: Path, asked: dict[str, Sample]) -> None:
    other = clip(tmp_path / "other.mp4")
    answers, page = showcase(tmp_path, "--other", str(other), "--expression", "the dog", "--question", "Why?")
    assert set(asked) == set(SAYS)
    assert {name: a["said"] for name, a in answers.items()} == {
        "ks": "tap dancing",
        "ave": "dog & cat 1–3 s",
        "avvp": "seen: Dog 0–2 s; heard: Dog 0–2 s, Dog 3–4 s, Horn 1–4 s",
        "a2v": "video one",
        "v2a": "sound two",
        "s4": "box [56, 56, 167, 167], 3 points",
        "ref_avs": "absent",
        "arig": "box [20, 30, 100, 120]",
        "avcap": "A dog <barks>.",
        "avqa": "no idea at all, nothing in tags",
    }
    assert answers["a2v"]["note"] == "One is this clip: right"
    assert answers["v2a"]["note"] == "One is this clip: wrong"
    assert [path.name for path in asked["a2v"].videos] == ["clip.mp4", "other.mp4"]
    assert [path.name for path in asked["v2a"].audios] == ["clip.mp4", "other.mp4"]
    assert answers["avqa"]["asked"].endswith("Why?")
    # Nothing is fetched, nothing that the model says becomes markup.
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "A dog &lt;barks&gt;." in page
    assert "<video controls src=" in page


def test_events_stand_at_their_seconds(tmp_path: Path, asked: dict[str, Sample]) -> None:
    _, page = showcase(tmp_path)
    (left, width) = re.findall(r'left:([\d.]+)%;width:([\d.]+)%;[^>]+title="dog &amp; cat, 1 to 3 s"', page)[
        0
    ]
    assert float(left) == pytest.approx(25, abs=0.5)  # of four seconds
    assert float(width) == pytest.approx(50, abs=0.5)


def test_the_timeline_of_a_long_clip_runs_over_all_of_it(
    tmp_path: Path, asked: dict[str, Sample], data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.limits = None
    write_video(tmp_path / "long.mp4", np.full((50, 48, 64, 3), 90, np.uint8), 2, torch.zeros(16_000 * 25))
    words = ["--video", str(tmp_path / "long.mp4")]
    answers, page = showcase(tmp_path, *words, "--dataset", "ave")  # (1 3) of ten parts of 25 s
    assert answers["ave"]["said"] == "dog & cat 2.5–7.5 s"
    assert 'title="dog &amp; cat, 2.5 to 7.5 s"' in page

    def put(model: Any, data: Any, sample: Sample) -> Prediction:
        return Prediction(sample, SAYS[sample.dataset])

    monkeypatch.setattr("crab_lightning.inference.answer.put", put)
    answers, page = showcase(tmp_path, *words, "--dataset", "ave", "--windows", "10")
    assert answers["ave"]["said"] == "dog & cat 1–3 s, dog & cat 11–13 s, dog & cat 16–18 s"
    assert answers["ave"]["answer"].startswith("[0–10 s] ")
    assert answers["avvp"]["said"].startswith("seen: Dog 0–2 s, Dog 10–12 s")
    assert page.count('title="dog &amp; cat') == 3


def test_what_cannot_be_asked_says_what_it_needs(tmp_path: Path, asked: dict[str, Sample]) -> None:
    answers, page = showcase(tmp_path)
    assert answers["a2v"]["why_not"] == "needs --other, another clip"
    assert answers["ref_avs"]["why_not"] == "needs --expression"
    assert "ref_avs" not in asked
    assert "needs --expression" in page


def test_an_unreadable_answer_is_shown_as_it_is(
    tmp_path: Path,
    asked: dict[str, Sample],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(SAYS, "ave", "a dog, I think")
    answers, page = showcase(tmp_path)
    assert answers["ave"]["said"] == "a dog, I think (cannot be read)"
    assert "event_localization as ave: a dog, I think (cannot be read)\n" in capsys.readouterr().err
    assert '<p class="bad">cannot be read</p>' in page
    assert "The answer about events could not be read." in page
    assert "no event" not in page


def test_no_event_is_an_answer(
    tmp_path: Path, asked: dict[str, Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAYS, "avvp", "<visual></visual><audio>Dog,(0 2)</audio>")
    answers, page = showcase(tmp_path, "--dataset", "avvp")
    assert answers["avvp"]["said"] == "seen: nothing; heard: Dog 0–2 s"
    assert page.count("no event") == 1
    assert "could not be read" not in page


def test_what_the_run_was_not_taught_is_asked_only_with_a_word(
    tmp_path: Path, asked: dict[str, Sample], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data.taught = ["ave", "v2a"]
    other = str(clip(tmp_path / "other.mp4"))
    answers, _ = showcase(tmp_path, "--other", other)
    assert set(asked) == set(answers) == {"ave", "v2a"}
    said = capsys.readouterr().err
    assert (
        "not asked, because this run was not trained on them: question_answering, action_recognition" in said
    )
    words = ["showcase", "--video", other, "--checkpoint", "run", "--out", str(tmp_path), "--dataset", "ks"]
    assert main(words) == 1
    assert (
        "this run was not trained on the dataset ks. It was trained on ave (event_localization), v2a (cro"
        in (capsys.readouterr().err)
    )
    answers, page = showcase(tmp_path, "--untaught", "--expression", "it")
    assert {"ks", "s4", "ref_avs", "avcap"} <= set(asked)
    assert answers["ks"]["note"] == "This run was not trained on ks."
    assert answers["ave"]["note"] == ""
    assert "This run was not trained on ks." in page


def test_a_card_has_words_for_its_reader(
    tmp_path: Path, asked: dict[str, Sample], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data.datasets["ks"].classes = None
    data.tasks["segmentation"] = Segmentation()
    answers, page = showcase(tmp_path)
    note = "The config of this run lists no classes of ks, so the answer is shown as it is."
    assert (answers["ks"]["note"], answers["ks"]["answer"]) == (note, SAYS["ks"])
    assert answers["s4"]["note"] == "This run has no mask decoder, so no mask is drawn."
    assert "segmentation: give --sam2 to draw masks" in capsys.readouterr().err
    cards = page.partition('class="cards"')[2].partition("Not asked.")[0]
    assert not re.search(r"--\w|Task\.|`", cards)


def test_a_picture_or_a_clip_without_sound_is_refused_before_the_model_is_loaded(
    tmp_path: Path, asked: dict[str, Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.jpg")
    write_video(tmp_path / "mute.mp4", np.full((8, 48, 64, 3), 90, np.uint8), 2, None)
    words = ["showcase", "--checkpoint", "run", "--out", str(tmp_path / "out"), "--video"]
    assert main([*words, str(tmp_path / "picture.jpg")]) == 1
    assert "picture.jpg is a picture and was given as --video; this task" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "mute.mp4")]) == 1
    assert "mute.mp4 has no sound. Give a sound file as --audio, or give --silent" in capsys.readouterr().err
    assert not asked
    assert main([*words, str(tmp_path / "mute.mp4"), "--silent"]) == 0
    assert {"ks", "ave"} <= set(asked)


def test_datasets_are_chosen_by_name(
    tmp_path: Path, asked: dict[str, Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    video = clip(tmp_path / "clip.mp4")
    words = ["showcase", "--video", str(video), "--checkpoint", "run", "--out", str(tmp_path), "--dataset"]
    assert main([*words, "kinetics"]) == 1
    assert "--dataset kinetics: this run has avqa_thu, avqa, ks" in capsys.readouterr().err
    assert main([*words, "v2a"]) == 0
    answers = json.loads((tmp_path / "showcase.json").read_text())["answers"]
    assert [a["dataset"] for a in answers if a["task"] == "cross_modal_matching"] == ["v2a"]


def test_events_at_one_time_get_rows_of_their_own() -> None:
    lane = Lane("heard", [("a", 0, 4), ("b", 2, 3), ("c", 4, 6), ("d", 3, 5)])
    assert [[name for name, _, _ in row] for row in lane.rows()] == [["a", "c"], ["b", "d"]]
    assert Lane("heard", []).rows() == [[]]


def test_a_real_clip_makes_a_page(tmp_path: Path, asked: dict[str, Sample], real_clips: Path) -> None:
    (video,) = (real_clips / "AVUIE_2" / "avvp" / "video").glob("*.mp4")
    assert main(["showcase", "--video", str(video), "--checkpoint", "run", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "showcase.html").stat().st_size > video.stat().st_size
