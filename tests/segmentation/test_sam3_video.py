"""What a name means, followed through a video by SAM3's video model: the masks of transformers' own calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crab_lightning.segmentation import NameTracker, Prompt, Sam2Tracker

FRAMES = torch.randint(0, 255, (9, 3, 60, 80), dtype=torch.uint8, generator=torch.manual_seed(2))
BOX = (10.0, 5.0, 60.0, 50.0)


@pytest.fixture
def easy(sam3: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights that find things, and remove and confirm some of them again."""
    model = NameTracker.weights(str(sam3), "cpu", "float32").model
    wanted = {"score_threshold_detection": 0.2, "new_det_thresh": 0.2, "det_nms_thresh": 0.9,
              "high_conf_thresh": 0.2, "high_iou_thresh": 0.1, "recondition_every_nth_frame": 3,
              "hotstart_delay": 3, "hotstart_unmatch_thresh": 2, "hotstart_dup_thresh": 2}  # fmt: skip
    for name, value in wanted.items():
        monkeypatch.setattr(model, name, value)
    with torch.no_grad():  # the random tracker else says of every thing that it is gone
        model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(9.0)
    return sam3


def test_masks_of_names_are_those_of_transformers(easy: Path) -> None:
    """Theirs holds the whole video as floats and keeps all memory; ours encodes frames one by one."""
    from transformers import (
        AutoTokenizer,
        Sam2VideoVideoProcessor,
        Sam3ImageProcessor,
        Sam3VideoInferenceSession,
        Sam3VideoProcessor,
    )

    loaded = NameTracker.weights(str(easy), "cpu", "float32")
    images, words = Sam3ImageProcessor.from_pretrained(easy), AutoTokenizer.from_pretrained(easy)
    processor = Sam3VideoProcessor(images, Sam2VideoVideoProcessor(), words)
    session = Sam3VideoInferenceSession(loaded.pixels(list(FRAMES)), 60, 80, dtype=torch.float32)
    processor.add_text_prompt(session, ["man", "dulcimer"])
    expected = {}
    for out in loaded.model.propagate_in_video_iterator(session):
        expected[out.frame_idx] = processor.postprocess_outputs(session, out)["masks"].any(0)
    prompts = {3: Prompt(names=("man",)), 7: Prompt(names=("dulcimer", "man"))}
    found = dict(NameTracker(str(easy), "cpu").track(FRAMES, prompts))
    assert list(found) == list(expected) == list(range(9))
    assert session.hotstart_removed_obj_ids, "or nothing is removed"
    assert session.obj_ids, "or nothing is kept"
    assert all(mask.shape == (60, 80) for mask in found.values())
    assert 0 < sum(mask.float().mean() for mask in found.values()) < 9, "or nothing is compared"
    for number, mask in found.items():
        assert torch.equal(mask, expected[number]), number


def test_things_are_kept_that_a_prompt_points_at_in_its_frame(easy: Path) -> None:
    tracker = NameTracker(str(easy), "cpu")
    every = dict(tracker.track(FRAMES[:6], {2: Prompt(names=("man",))}))
    kept = dict(tracker.track(FRAMES[:6], {2: Prompt((0.0, 0.0, 79.0, 59.0), names=("man",))}))
    assert all(torch.equal(every[i], kept[i]) for i in range(6))
    corner = dict(tracker.track(FRAMES[:6], {2: Prompt((79.0, 59.0, 79.0, 59.0), names=("man",))}))
    assert list(corner) == list(range(6))
    assert not any(mask.any() for mask in corner.values())
    unnamed = dict(tracker.track(FRAMES[:6], {2: Prompt(BOX)}))
    pointed = dict(Sam2Tracker(str(easy), "cpu").track(FRAMES[:6], {2: Prompt(BOX)}))
    assert all(torch.equal(unnamed[i], pointed[i]) for i in range(6))


def test_what_cannot_be_followed_by_name_is_named(sam3: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam3"}))
    with pytest.raises(
        ValueError,
        match=r"type 'sam3', which does not follow named objects .*; known types: sam3_video",
    ):
        NameTracker(str(tmp_path), "cpu").load()
    with pytest.raises(ValueError, match="prompt on frame 9 of a video with 6 frames"):
        list(NameTracker(str(sam3), "cpu").track(FRAMES[:6], {9: Prompt(names=("man",))}))
    with pytest.raises(ValueError, match="needs a prompt with a box or points"):
        list(NameTracker(str(sam3), "cpu").track(FRAMES[:6], {0: Prompt(names=(" ",))}))
