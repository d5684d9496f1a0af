"""`evaluate` against `serve` gives the digits of `test`; what an endpoint cannot do is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.commands import main
from crab_lightning.inference.loading import load_run
from crab_lightning.media import read_audio, wav_bytes
from tests.conftest import TESTED_SETS
from tests.serving.test_server import Server


def answers(run: Path) -> dict[str, str]:
    """Return the answer to each question."""
    found = {}
    for file in sorted((run / "predictions").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found[record["id"]] = record["answer"]
    return found


def test_evaluate_against_serve_gives_the_digits_of_test(
    tested: Path, small: dict[str, Path], tmp_path: Path
) -> None:
    model, _ = load_run(tested)
    words = ["--model", "tiny", "--data.root", str(small["mini"]), "--only", TESTED_SETS]
    words += ["--video", "file", "--parallel", "3", "--data.num_workers=0", "--max_new_tokens", "8"]
    with Server(model, max_new_tokens=8) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        assert main(["evaluate", "--endpoint", url, *words, "--folder", str(tmp_path / "run")]) == 0
    expected = answers(tested)
    assert len(expected) > 7
    assert answers(tmp_path / "run") == expected
    scores = [json.loads((run / "metrics.json").read_text())["test"] for run in (tested, tmp_path / "run")]
    for name, entry in scores[0]["datasets"].items():
        boxes = {k: v for k, v in scores[1]["datasets"][name]["strict"].items() if v is not None}
        assert boxes.items() <= {k: v for k, v in entry["strict"].items() if v is not None}.items(), name


def test_endpoint_that_is_not_there_is_named(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--data.root", str(small["mini"])]
    keys = ["--only", "ks", "--data.num_workers=0", "--model.init_args.retries=0"]
    assert main(["evaluate", *words, *keys, "--folder", str(tmp_path / "run")]) == 1
    assert "http://127.0.0.1:9/v1 cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("lossless", [True, False])
def test_sound_survives_the_way_to_the_endpoint(tmp_path: Path, lossless: bool) -> None:
    sound = torch.sin(torch.arange(16_000) * 0.05) * 0.7
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, lossless=lossless))
    back = read_audio(tmp_path / "sound.wav")
    assert back.shape == sound.shape
    torch.testing.assert_close(back, sound, atol=0 if lossless else 1e-4, rtol=0)


def test_frames_are_sent_as_pictures(small: dict[str, Path]) -> None:
    from crab_lightning import load_data
    from crab_lightning.processing.endpoint import EndpointProcessor

    data: Any = load_data("data/av_uie_v2.yaml", root=str(small["mini"]), only=["a2v"])
    data.processor = EndpointProcessor("released")
    data.setup("test")
    encoded = data.dataset(data.samples("test"))[0]
    content = json.loads(bytes(encoded.inputs["request"].numpy()))["content"]
    kinds = [part["type"] for part in content]
    assert kinds.count("image_url") == 20, "two clips of ten frames"
    assert kinds.count("input_audio") == 1
    assert kinds[0] == kinds[-1] == "text"
