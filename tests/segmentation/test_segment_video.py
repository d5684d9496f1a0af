from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from crab_lightning.commands import main
from crab_lightning.inference.segment_video import asked_frames, masks_of, nearest_parts
from crab_lightning.media import probe, read_video, write_video
from crab_lightning.segmentation import Prompt
from crab_lightning.segmentation.overlays import painted
from crab_lightning.structures import Prediction, Sample
from tests.segmentation.pointing import pointing


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """What a run is asked that finds the sounding thing in every frame but the first it is asked about."""
    samples: list[Sample] = []

    def put(model: Any, data: Any, sample: Sample) -> Prediction:
        samples.append(sample)
        said = (
            "It is the [56,56,167,167] at [100,60],[90,90]." if len(samples) > 1 else "<answer>false</answer>"
        )
        return Prediction(sample, f"<answer>true</answer> {said}" if len(samples) > 1 else said)

    data = pointing()
    monkeypatch.setattr("crab_lightning.inference.loading.load_run", lambda *_, check: (None, data))
    monkeypatch.setattr("crab_lightning.inference.segment_video.put", put)
    return samples


def segment(tmp_path: Path, video: Path, sam2: Path | str, *words: str) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "out"
    given = ["--checkpoint", "run", "--sam2", str(sam2), "--video", str(video), "--out", str(out)]
    status = main(["segment", *given, *words])
    return status, {} if status else json.loads((out / "answer.json").read_text())


def test_a_video_gets_masks_an_overlay_with_sound_and_what_was_said(
    tmp_path: Path, asked: list[Sample], random_video_model: Path
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", frames, 6, 0.1 * torch.ones(32_000))
    status, record = segment(tmp_path, tmp_path / "clip.mp4", random_video_model, "--asks", "3")
    assert status == 0
    assert [r["frame"] for r in record["asked"]] == [2, 6, 10]
    assert [sample.unit for sample in asked] == [0, 2, 4]  # each with the sound of its own second
    assert [r["holds_for_frames"] for r in record["asked"]] == [[0, 4], [5, 8], [9, 11]]
    assert record["asked"][1]["box_xyxy_px"] == [16.0, 12.0, 47.0, pytest.approx(35.0)]
    masks = [np.array(Image.open(p)) for p in sorted((tmp_path / "out" / "masks").iterdir())]
    assert [(m > 0).sum() for m in masks] == record["mask_pixels"]
    assert {m.shape for m in masks} == {(48, 64)}
    assert record["mask_pixels"][:5] == [0] * 5  # the first answer says that nothing is there
    overlay = probe(tmp_path / "out" / "overlay.mp4")
    assert (overlay.width, overlay.height) == (64, 48)
    assert overlay.fps * 2 == pytest.approx(12)
    assert overlay.has_audio
    assert overlay.duration_s == pytest.approx(2, abs=0.2)


def test_an_expression_is_one_thing_followed_from_every_answer(
    tmp_path: Path, asked: list[Sample], random_video_model: Path
) -> None:
    write_video(tmp_path / "clip.mp4", np.zeros((6, 48, 64, 3), np.uint8), 6, torch.zeros(16_000))
    words = ["--asks", "2", "--expression", "the bell"]
    _, record = segment(tmp_path, tmp_path / "clip.mp4", random_video_model, *words)
    assert [sample.fields["expression"] for sample in asked] == ["the bell"] * 2
    assert [r["holds_for_frames"] for r in record["asked"]] == [[0, 5], [0, 5]]
    assert len(record["mask_pixels"]) == 6


def test_a_video_is_segmented_by_the_names_of_the_answers(
    tmp_path: Path, asked: list[Sample], sam3: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An answer that names nothing leaves its part empty and says so; ``both`` follows what it points at."""
    from crab_lightning.inference import segment_video

    write_video(tmp_path / "clip.mp4", np.zeros((6, 48, 64, 3), np.uint8), 6, torch.zeros(16_000))
    named = "The object making the sound is the dog. [56,56,167,167],[100,60]"
    said = [named, "[56,56,167,167],[100,60]"]
    monkeypatch.setattr(segment_video, "put", lambda model, data, sample: Prediction(sample, said.pop(0)))
    given: list[dict[int, Prompt]] = []

    def keep(frames: Tensor, prompts: dict[int, Prompt], parts: list[range], tracker: Any) -> Tensor:
        given.append(dict(prompts))
        return masks_of(frames, prompts, parts, tracker)

    monkeypatch.setattr(segment_video, "masks_of", keep)
    words = ["--asks", "2", "--by"]
    _, record = segment(tmp_path, tmp_path / "clip.mp4", sam3, *words, "name")
    assert given == [{1: Prompt(names=("dog",))}]
    assert (record["masks_made_of"], [one["names"] for one in record["asked"]]) == ("name", [["dog"], []])
    assert record["mask_pixels"][3:] == [0, 0, 0]
    assert "(it has no name: no mask)" in capsys.readouterr().out
    said = [named, "[56,56,167,167],[100,60]"]
    _, record = segment(tmp_path, tmp_path / "clip.mp4", sam3, *words, "both")
    box, points = (16.0, 12.0, 47.0, 35.0), given[1][1].points_xy_px
    assert given[1] == {1: Prompt(box, points, ("dog",)), 4: Prompt(box, points)}
    status, _ = segment(tmp_path, tmp_path / "clip.mp4", "mini_sam2", *words, "name")
    assert status == 1
    assert (
        "type 'sam2', which does not follow named objects through a video; known" in capsys.readouterr().err
    )


def test_a_real_clip_is_followed(
    tmp_path: Path, asked: list[Sample], random_video_model: Path, real_clips: Path
) -> None:
    (video,) = (real_clips / "AVUIE_2" / "avvp" / "video").glob("*.mp4")
    _, record = segment(tmp_path, video, random_video_model, "--asks", "2", "--fps", "1")
    assert (record["width_px"], record["height_px"]) == (352, 288)
    assert len(record["times_s"]) == len(record["mask_pixels"]) == 10
    overlay = read_video(tmp_path / "out" / "overlay.mp4", 10, None)
    assert overlay.total_frames == 10
    assert overlay.times_s[-1].item() == pytest.approx(record["times_s"][-1], abs=0.1)


def test_weights_without_memory_are_told_before_the_run_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clip.mp4", np.zeros((2, 48, 64, 3), np.uint8), 6)
    assert segment(tmp_path, tmp_path / "clip.mp4", "mini_sam2")[0] == 1
    said = capsys.readouterr().err
    assert (
        "the SAM2 weights at mini_sam2 can segment only pictures (or one moment of a video, with --at_s)"
        in said
    )
    assert "facebook/sam2.1-hiera-tiny" in said


class Copies:
    """Says which frames it was given, and fills boxes."""

    def track(self, frames: Tensor, prompts: Mapping[int, Prompt]) -> Iterator[tuple[int, Tensor]]:
        (prompt,) = prompts.values()
        for i in range(len(frames)):
            mask = torch.zeros(frames.shape[-2:], dtype=torch.bool)
            x1, y1, x2, y2 = (int(side) for side in prompt.box_xyxy_px or ())
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
            yield i, mask


def test_each_answer_holds_for_the_frames_nearest_to_it() -> None:
    asked = asked_frames(10, 2)
    parts = nearest_parts(asked, 10)
    assert asked == [2, 7]
    assert [list(part) for part in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    prompts = {2: Prompt((0.0, 0.0, 1.0, 1.0)), 7: Prompt((2.0, 2.0, 4.0, 4.0))}
    masks = masks_of(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), prompts, parts, Copies())  # type: ignore[arg-type]
    assert masks.flatten(1).sum(1).tolist() == [4] * 5 + [9] * 5
    assert asked_frames(2, 5) == [0, 1]


def test_a_painted_frame_shows_mask_box_and_points_and_leaves_the_rest() -> None:
    frame = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:30, 20:30] = True
    plain = painted(frame, mask, None)
    assert plain[25, 25, 0] > 130 > 100 > plain[25, 25, 2]
    assert (plain[40:, 40:] == 100).all()
    marked = painted(frame, mask, Prompt((40.0, 30.0, 70.0, 50.0), ((60.0, 40.0),)))
    assert tuple(marked[40, 60]) == (240, 228, 66)
    assert (marked != plain).any(2)[30, 40:70].all()
