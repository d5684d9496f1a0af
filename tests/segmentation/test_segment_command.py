from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crab_lightning.commands import main
from crab_lightning.media import write_audio, write_video
from crab_lightning.segmentation import Sam2Decoder
from crab_lightning.structures import Prediction, Sample
from tests.segmentation.pointing import pointing
from tests.segmentation.test_test_loop import Rectangle


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run that answers with the first entry, and a decoder that fills boxes."""
    answers = ["[56,28,167,111],[100,60]"]

    def put(model: Any, data: Any, sample: Sample) -> Prediction:
        assert sample.images[0].is_file()
        return Prediction(sample, answers[0])

    data = pointing()
    monkeypatch.setattr("crab_lightning.inference.loading.load_run", lambda *_, check: (None, data))
    monkeypatch.setattr("crab_lightning.inference.question.put", put)
    monkeypatch.setattr(Sam2Decoder, "decode", lambda self, requests: Rectangle().decode(requests))
    return answers


def files(tmp_path: Path) -> list[str]:
    Image.fromarray(np.full((448, 672, 3), 90, np.uint8)).save(tmp_path / "picture.png")
    write_audio(tmp_path / "sound.wav", torch.zeros(16_000 * 2), 16_000)
    return ["--image", str(tmp_path / "picture.png"), "--audio", str(tmp_path / "sound.wav")]


def segment(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any], np.ndarray]:
    out = tmp_path / "out"
    status = main(["segment", "--checkpoint", "run", "--sam2", "x/y", "--out", str(out), *words])
    if status:
        return status, {}, np.zeros(0)
    record = json.loads((out / "answer.json").read_text())
    assert Image.open(out / "overlay.png").size[0] > 500
    return status, record, np.array(Image.open(out / "mask.png"))


def test_a_picture_is_segmented_at_its_own_size(tmp_path: Path, says: list[str]) -> None:
    _, record, mask = segment(tmp_path, *files(tmp_path))
    assert mask.shape == (448, 672)
    assert record["box_xyxy_image_px"] == [168.0, 56.0, 503.0, 223.0]
    assert mask[56:224, 168:504].all()
    assert record["mask_pixels"] == (mask > 0).sum() == 168 * 336
    assert record["status"] == "ok"


def test_an_expression_is_found_in_a_frame_of_a_video(tmp_path: Path, says: list[str]) -> None:
    frames = np.zeros((20, 64, 96, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", frames, 10, torch.zeros(32_000))
    says[0] = "<answer>false</answer>"
    words = ["--video", str(tmp_path / "clip.mp4"), "--at_s", "1", "--expression", "the bell"]
    _, record, mask = segment(tmp_path, *words)
    assert record["task"] == "referring_segmentation"
    assert record["status"] == "empty_mask"
    assert mask.shape == (64, 96)
    assert not mask.any()


def test_an_unreadable_answer_gives_an_empty_mask_and_the_reason(tmp_path: Path, says: list[str]) -> None:
    says[0] = "it is a dog"
    _, record, mask = segment(tmp_path, *files(tmp_path))
    assert (record["status"], record["parsed"]) == ("coordinate_extraction_failed", None)
    assert not mask.any()


def test_missing_files_are_named(tmp_path: Path, says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        segment(tmp_path, "--image", str(tmp_path / "nothing.png"))
    assert re.search(r"--image: .*nothing.png is not a file", capsys.readouterr().err)


def test_the_mask_may_come_from_the_name(
    tmp_path: Path, says: list[str], sam3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*files(tmp_path), "--sam2", str(sam3), "--by"]
    says[0] = "The object making the sound is the dog. [56,28,167,111],[100,60]"
    for by in ("name", "both"):
        _, record, mask = segment(tmp_path, *words, by)
        assert (record["mask_made_of"], record["names"]) == (by, ["dog"])
        assert mask.shape == (448, 672)
    says[0] = "[56,28,167,111],[100,60]"  # nothing is named, so nothing is found
    assert not segment(tmp_path, *words, "name")[2].any()
    assert segment(tmp_path, *files(tmp_path), "--sam2", "mini_sam2", "--by", "name")[0] == 1
    assert (
        "type 'sam2', which does not find named objects; known types: sam3, sam3_video"
        in capsys.readouterr().err
    )
