"""Prompts for untrained models: each task explains its answer, and reads the very form that it explains."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from crab_lightning import load_data
from crab_lightning.commands import main
from crab_lightning.processing.endpoint import EndpointProcessor

SHOWN = {
    "action_recognition": "<answer>",
    "emotion_recognition": "<answer>",
    "question_answering": "<answer>",
    "cross_modal_matching": "<answer>one</answer>",
    "event_localization": "<event>",
    "event_parsing": "<visual>",
    "segmentation": "[10,20,110,120],[50,60],[60,70],[70,80]",
    "referring_segmentation": "[10,20,110,120],[50,60],[60,70],[70,80]",
    "image_grounding": "<obj>(10,20)(110,120)</obj>",
}


def test_every_task_reads_the_form_that_it_explains(small: dict[str, Path]) -> None:
    data: Any = load_data("data/av_uie_v2.yaml", root=str(small["mini"]), explain_answers=True)
    data.processor = EndpointProcessor("released")
    data.setup("test")
    samples = {}
    for sample in data.samples("test"):
        samples.setdefault(sample.task, sample)
    assert set(SHOWN) <= set(samples)
    dataset = data.dataset(list(samples.values()))
    for number, (key, sample) in enumerate(samples.items()):
        task, spec = data.tasks[key], data.datasets[sample.dataset]
        last = dataset.example(number).conversation[-1]
        said = task.explanation(sample, spec)
        asked = task.conversation(sample)[-1]
        if key not in SHOWN:
            assert (said, last) == ("", asked), "any text is a caption"
            continue
        assert last == f"{asked}\n{said}"
        assert SHOWN[key] in said
        assert getattr(task, "lenient", True)
        answer = said[said.index(SHOWN[key]) :]
        if key == "referring_segmentation":
            answer = f"<answer>true</answer> {answer}"
        if key == "question_answering":
            answer = task.direct(sample)
        assert task.parse(answer, sample, spec) is not None, (key, answer)


class Untrained(BaseHTTPRequestHandler):
    """Answers as a model that was not trained here does, and keeps what it was asked."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["messages"][0]["content"][-1]["text"])
        reply = {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": "The answer is **two**."}}],
        }  # fmt: skip
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Untrained)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Untrained.asked = []
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_evaluate_explains_reads_leniently_and_says_so(
    small: dict[str, Path], tmp_path: Path, url: str
) -> None:
    words = [
        "evaluate",
        "--endpoint",
        url,
        "--model",
        "m",
        "--data.root",
        str(small["mini"]),
        "--only",
        "a2v",
    ]
    words += ["--data.num_workers=0"]
    found = {}
    for name, more in (("plain", []), ("explained", ["--explain"])):
        Untrained.asked = []
        assert main([*words, *more, "--folder", str(tmp_path / name)]) == 0
        entry = json.loads((tmp_path / name / "metrics.json").read_text())["test"]["datasets"]["a2v"]
        assert Untrained.asked
        said = all("Write one or two inside tags" in text for text in Untrained.asked)
        found[name] = (said, entry["note"], entry["unparsed_rate"])
    assert found["plain"][:2] == (False, None)
    assert found["plain"][2] > 0
    said, note, unparsed = found["explained"]
    assert said
    assert "read leniently" in note
    assert "explained the answer format" in note
    assert unparsed == 0
