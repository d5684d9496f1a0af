"""The video predictor against the official code, on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from crab_lightning.segmentation import MaskRequest, Prompt, Sam2Decoder, Sam2Tracker
from tests.segmentation.conftest import CONFIG, OVERRIDES

BOX = (20.0, 30.0, 80.0, 90.0)
POINTS = ((40.0, 40.0), (60.0, 70.0), (50.0, 55.0))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """Nine frames of a drifting texture, as files that the official code reads and as a tensor."""
    folder = tmp_path_factory.mktemp("frames")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 14, generator=generator) * 255
    wide = torch.nn.functional.interpolate(coarse, (140, 170), mode="bicubic").clamp(0, 255)[0].byte()
    read = []
    for i in range(9):
        frame = wide[:, i : i + 128, 4 * i : 4 * i + 128].permute(1, 2, 0).numpy()
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=95)
        read.append(torch.from_numpy(np.array(Image.open(folder / f"{i:05d}.jpg"))).permute(2, 0, 1))
    return folder, torch.stack(read)


@pytest.mark.parametrize("asked", [(2,), (1, 6)])
def test_masks_of_a_video_are_those_of_the_official_code(
    official: Path, video_model: Path, frames: tuple[Path, Tensor], asked: tuple[int, ...]
) -> None:
    from sam2.build_sam import build_sam2_video_predictor

    extra = [*OVERRIDES, "++model.binarize_mask_from_pts_for_mem_enc=true"]
    extra += ["++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true"]
    theirs = build_sam2_video_predictor(
        CONFIG, str(official), device="cpu", hydra_overrides_extra=extra, apply_postprocessing=False
    )
    state = theirs.init_state(str(frames[0]))
    for number in asked:
        theirs.add_new_points_or_box(
            state, frame_idx=number, obj_id=1, box=np.array(BOX, np.float32),
            points=np.array(POINTS, np.float32), labels=np.ones(3, np.int32),
        )  # fmt: skip
    expected = {}
    for reverse in (False, True):
        for number, _, logits in theirs.propagate_in_video(state, reverse=reverse, start_frame_idx=asked[0]):
            expected.setdefault(number, logits[0, 0])
    prompt = Prompt(BOX, POINTS)
    found = dict(Sam2Tracker(str(video_model), "cpu").track(frames[1], dict.fromkeys(asked, prompt)))
    assert sorted(found) == sorted(expected) == list(range(9))
    for number, mask in found.items():
        sure = expected[number].abs() > 1e-3
        assert sure.float().mean() > 0.9
        assert torch.equal(mask[sure], (expected[number] > 0)[sure]), number


def test_one_folder_serves_pictures_and_videos(
    converted: Path, video_model: Path, frames: tuple[Path, Tensor]
) -> None:
    request = MaskRequest(frames[1][0], Prompt(BOX, POINTS))
    first, second = (
        Sam2Decoder(str(folder), "cpu", logits=True).decode([request])[0]
        for folder in (converted, video_model)
    )
    torch.testing.assert_close(first, second)


def test_weights_without_memory_are_refused_with_what_to_do(converted: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"can segment only pictures \(or one moment of a video, with --at_s\): \d+ tensors of the "
        r"video predictor's memory are missing \(first: "
        r"'memory_attention\.layer_norm\.bias'\)\. Use an official SAM2.1 model, such as facebook/",
    ):
        Sam2Tracker(str(converted), "cpu").load()


def test_prompts_that_lead_nowhere_are_refused(video_model: Path, frames: tuple[Path, Tensor]) -> None:
    tracker = Sam2Tracker(str(video_model), "cpu")
    with pytest.raises(ValueError, match="needs a prompt with a box or points on at least one frame"):
        list(tracker.track(frames[1], {}))
    with pytest.raises(ValueError, match="prompt on frame 9 of a video with 9 frames"):
        list(tracker.track(frames[1], {9: Prompt(BOX)}))
