"""SAM3 and EdgeTAM behind the decoder and the tracker of SAM2: the masks of transformers' own calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from crab_lightning.segmentation import MaskRequest, Prompt, Sam2Decoder, Sam2Tracker

PROMPTS = (
    Prompt((10.0, 20.0, 60.0, 90.0), ((30.0, 40.0), (50.0, 50.0), (20.0, 80.0))),
    Prompt(None, ((5.0, 6.0),)),
)


@pytest.fixture(params=["sam3", "edgetam"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def kind_of(folder: Path) -> str:
    """The ``model_type`` of a folder."""
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def image_model(folder: Path) -> Any:
    """The image predictor as its authors load it."""
    import transformers

    kind, renamed = {
        "sam3_video": (transformers.Sam3TrackerModel, {r"^tracker_model\.": ""}),
        "edgetam_video": (transformers.EdgeTamModel, None),
    }[kind_of(folder)]
    model: Any = kind
    return model.from_pretrained(folder, key_mapping=renamed).eval()


def test_masks_are_those_of_transformers(folder: Path) -> None:
    model = image_model(folder)
    side = model.config.prompt_encoder_config.image_size
    image = torch.randint(0, 255, (3, side, side), dtype=torch.uint8, generator=torch.manual_seed(1))
    decoder = Sam2Decoder(str(folder), device="cpu", logits=True)
    found = decoder.decode([MaskRequest(image, p) for p in PROMPTS])
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(processor[key])[:, None, None] for key in ("image_mean", "image_std"))
    pixels = ((image.float() / 255 - mean) / std)[None]
    for prompt, mask in zip(PROMPTS, found, strict=True):
        inputs = {
            "input_points": torch.tensor([[prompt.points_xy_px]]),
            "input_labels": torch.ones(1, 1, len(prompt.points_xy_px), dtype=torch.int64),
        }
        if prompt.box_xyxy_px is not None:
            inputs["input_boxes"] = torch.tensor([[prompt.box_xyxy_px]])
        with torch.no_grad():
            low = model(pixel_values=pixels, multimask_output=False, **inputs).pred_masks[:, 0]
        expected = F.interpolate(low, (side, side), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(mask, expected, atol=1e-4, rtol=1e-4)


def test_masks_of_a_video_are_those_of_transformers(folder: Path) -> None:
    """Ours is a session of SAM2's class that encodes frames one by one; theirs is the family's own."""
    import transformers

    family = {"sam3_video": "Sam3TrackerVideo", "edgetam_video": "EdgeTamVideo"}[kind_of(folder)]
    model: Any = getattr(transformers, f"{family}Model").from_pretrained(folder).eval()
    frames = torch.randint(0, 255, (6, 3, 90, 120), dtype=torch.uint8, generator=torch.manual_seed(2))
    loaded = Sam2Tracker.weights(str(folder), "cpu", "float32")
    session = getattr(transformers, f"{family}InferenceSession")(
        loaded.pixels(list(frames)), 90, 120, dtype=torch.float32
    )
    box, points = PROMPTS[0].box_xyxy_px, PROMPTS[0].points_xy_px
    assert box is not None
    coordinates = torch.tensor([box[:2], box[2:], *points]) * loaded.side / torch.tensor([120.0, 90.0])
    session.add_point_inputs(
        session.obj_id_to_idx(1),
        2,
        {
            "point_coords": coordinates[None, None],
            "point_labels": torch.tensor([[[2, 3, 1, 1, 1]]], dtype=torch.int32),
        },
    )
    session.obj_with_new_inputs = [1]
    expected = {}
    with torch.no_grad():
        model(session, frame_idx=2)
        for reverse in (False, True):
            for out in model.propagate_in_video_iterator(session, start_frame_idx=2, reverse=reverse):
                low = out.pred_masks.float()
                full = F.interpolate(low, (90, 120), mode="bilinear", align_corners=False)[0, 0]
                expected.setdefault(out.frame_idx, full)
    found = dict(Sam2Tracker(str(folder), "cpu").track(frames, {2: PROMPTS[0]}))
    assert sorted(found) == sorted(expected) == list(range(6))
    for number, mask in found.items():
        sure = expected[number].abs() > 1e-3
        assert torch.equal(mask[sure], (expected[number] > 0)[sure]), number


def test_model_without_boxes_and_points_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match=r"type 'clip'.*known types: sam2, .*sam3_tracker"):
        Sam2Decoder(str(tmp_path), device="cpu").load()
    with pytest.raises(
        ValueError, match=r"type 'clip', which does not follow an object through a video; known types"
    ):
        Sam2Tracker(str(tmp_path), "cpu").load()


def test_edgetam_with_an_older_transformers_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "edgetam_video"}')
    monkeypatch.setattr("transformers.__version__", "5.19.0")
    with pytest.raises(ImportError, match=r"transformers 5\.19\.0 cannot load .*'transformers>=5\.20'"):
        Sam2Decoder(str(tmp_path)).load()
