"""The HTML page: whole, self-contained, and honest about what is not there."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from crab_lightning.commands import main
from crab_lightning.media import write_audio, write_video
from crab_lightning.reports.charts import bars, line_chart, spans_svg

EVIL = "<script>alert(1)</script> It honks. <answer>horn</answer>"


def record(key: int, truth: str, parsed: str | None, answer: str) -> dict[str, Any]:
    return {
        "id": f"ks/test/{key}",
        "dataset": "ks",
        "prompt": "What is it?",
        "truth": truth,
        "answer": answer,
        "parsed": parsed,
        "score": float(truth == parsed),
        "truncated": False,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root, folder = tmp_path / "root", tmp_path / "run"
    base = root / "AVUIE_2" / "ks"
    for kind in ("video", "audio"):
        (base / kind).mkdir(parents=True)
    rows = [
        {"video_path": f"{i}.mp4", "audio_path": f"{i}.wav", "action": a}
        for i, a in enumerate(["dog", "horn"])
    ]
    (base / "test.json").write_text(json.dumps(rows))
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_video(base / "video" / "0.mp4", torch.from_numpy(frames), 4.0)
    write_audio(base / "audio" / "0.wav", torch.zeros(16_000))
    entry = {
        "task": "action_recognition",
        "layout": "ks",
        "headline": "accuracy",
        "loss": None,
        **{p: {"accuracy": 0.5} for p in ("strict", "valid_only", "majority")},
        "counts": {"scored": 2, "unparsed": 1, "truncated": 0, "missing": 0},
    }
    (folder / "predictions").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"test": {"step": 3, "datasets": {"ks": entry}}}))
    config = {
        "data": {"root": str(root), "tasks": {"r": {"class_path": "crab_lightning.tasks.ActionRecognition"}}}
    }
    config["data"]["datasets"] = {"ks": {"task": "r", "layout": "ks"}}
    (folder / "config.yaml").write_text(json.dumps(config))
    records = [record(0, "dog", "horn", EVIL), record(1, "horn", None, "what?")]
    (folder / "predictions" / "ks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    with SummaryWriter(str(folder)) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", 2.0 - step, step)
    return folder


class Reader(HTMLParser):
    """Collects tags, and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(v) for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(run: Path, *more: str) -> str:
    assert main(["report", str(run), *more]) == 0
    return (run / "report.html").read_text()


def test_page_is_whole_and_fetches_nothing(run: Path) -> None:
    text = page(run)
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert all(source.startswith(("data:", "#")) for source in reader.sources)
    assert not re.search(r"url\(|@import|https?://", text)


def test_scores_of_validation_rows_are_marked(run: Path) -> None:
    said = "There is no test file of ks, so these scores are of validation rows."
    assert said not in page(run)
    content = json.loads((run / "metrics.json").read_text())
    content["test"]["datasets"]["ks"]["splits"] = ["val"]
    (run / "metrics.json").write_text(json.dumps(content))
    assert said in page(run)


def test_answers_are_escaped_and_the_part_that_is_read_is_marked(run: Path) -> None:
    text = page(run)
    assert "<script>alert" not in text
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt; It honks. <mark>&lt;answer&gt;horn&lt;/answer&gt;</mark>"
        in text
    )


def test_pictures_of_the_clip_and_what_is_missing_are_shown(run: Path) -> None:
    text = page(run)
    assert text.count('alt="0.mp4, ') == 4
    assert 'alt="0.wav, spectrogram"' in text
    assert "1.mp4" in text  # the second clip's files are not there, and the card says which
    assert text.count("data:image/jpeg;base64,") == 5


def test_run_on_some_of_the_rows_has_its_pictures(run: Path) -> None:
    config = json.loads((run / "config.yaml").read_text())
    config["data"]["datasets"]["ucf"] = {"task": "r", "layout": "ucf"}
    config["data"]["only"] = ["ucf", "ks"]
    (run / "config.yaml").write_text(json.dumps(config))
    assert page(run).count("data:image/jpeg;base64,") == 5


def test_curves_counts_and_confusion_are_there(run: Path) -> None:
    text = page(run)
    assert "<figcaption>train/loss</figcaption>" in text
    assert 'title="true dog, answered horn: 1 of 1"' in text
    assert 'title="true horn, answered unreadable: 1 of 1"' in text
    assert "<td>2</td><td>1</td><td>0</td><td>0</td>" in text


def test_every_dataset_has_one_row_and_its_further_metrics_a_table(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    content["test"]["datasets"]["ks"]["strict"]["weighted_f1"] = 0.25
    (run / "metrics.json").write_text(json.dumps(content))
    text = page(run)
    assert text.count('<a href="#ks">') == 2  # in the table and in the list of links
    assert "<td>weighted_f1</td>" in text.split("All metrics")[1]
    assert "likelihood" not in text.lower()


def test_weighed_candidates_are_shown_with_their_reliability(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    entry = content["test"]["datasets"]["ks"]
    bins = {"bin_answers": [0, 2], "bin_right": [0, 1], "bin_confidence": [0.0, 1.5]}
    entry["calibration"] = {"error": 0.25, "accuracy": 0.5, "confidence": 0.75, **bins}
    entry["likelihood"] = {"accuracy": 0.5}
    (run / "metrics.json").write_text(json.dumps(content))
    file = run / "predictions" / "ks.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    names = (("<answer>dog</answer>.", 0.8), ("<answer>horn</answer>.", 0.2))
    lines[0]["candidates"] = [{"text": t, "probability": p, "log_prob": -1, "tokens": 2} for t, p in names]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(run)
    assert "expected calibration error 25.0 points" in text
    assert "2 answers with a mean confidence of 75.0 %: 50.0 % right" in text
    assert "<em>80 %</em><span>dog</span>" in text
    assert "<td>50.00</td><td>25.00</td>" in text  # likelihood, calibration error


@pytest.mark.parametrize(
    "events",
    [
        [{"event": "<b>", "start_s": 0, "end_s": 2.5}],
        {"visual": [["<b>", 0, 2.5]], "audio": []},
    ],
)
def test_events_are_drawn_over_the_time_of_their_sound(events: Any) -> None:
    drawn = spans_svg(events, None, 10.0)
    assert '<rect x="0" y="2" height="10" rx="3" width="250"' in drawn
    assert "<title>true: &lt;b&gt;, 0 to 2.5 s</title>" in drawn
    assert spans_svg("horn", [1, 2, 3, 4], 10.0) == ""


def test_axis_of_large_values_stays_short(run: Path) -> None:
    drawn = line_chart({"tokens": [(0, 1800.0), (1, 9800.0)]})
    assert ">9.8k<" in drawn
    assert "e+03" not in drawn
    assert ">2.5M<" in line_chart({"tokens": [(0, 2e6), (1, 3e6)]})


def test_a_bar_stays_in_its_frame() -> None:
    drawn = bars({"over": 1.5, "under": -0.5, "none": None})
    assert re.findall(r"width:([\d.-]+)%", drawn) == ["100.0", "0.0", "0.0"]
    assert re.findall("<em>(.*?)</em>", drawn) == ["150.00", "-50.00", "–"]


def test_without_data_root_the_page_says_so(run: Path) -> None:
    (run / "config.yaml").unlink()
    text = page(run, "--failures", "1")
    assert "has no pictures" in text
    assert "data:image" not in text
    assert text.count('class="card"') == 1
