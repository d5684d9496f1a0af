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


def test_curves_counts_and_confusion_are_there(run: Path) -> None:
    text = page(run)
    assert "<figcaption>train/loss</figcaption>" in text
    assert 'title="true dog, said horn: 1 of 1"' in text
    assert 'title="true horn, said unreadable: 1 of 1"' in text
    assert "<td>2</td><td>1</td><td>0</td><td>0</td>" in text


def test_without_data_root_the_page_says_so(run: Path) -> None:
    (run / "config.yaml").unlink()
    text = page(run, "--failures", "1")
    assert "No pictures" in text
    assert "data:image" not in text
    assert text.count('class="card"') == 1
