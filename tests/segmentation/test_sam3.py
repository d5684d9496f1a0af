"""SAM3's tracker behind the same decoder: the masks are those of transformers' own call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from crab_lightning.segmentation import MaskRequest, Prompt, Sam2Decoder


@pytest.fixture(scope="module")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Sam3ImageProcessor, Sam3TrackerConfig, Sam3TrackerModel

    torch.manual_seed(0)
    config = Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 112,
                "pretrain_image_size": 56,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 112, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    )
    folder = tmp_path_factory.mktemp("sam3") / "tiny"
    Sam3TrackerModel(config).save_pretrained(folder)
    Sam3ImageProcessor(size={"height": 112, "width": 112}).save_pretrained(folder)
    return folder


def test_masks_are_those_of_transformers(sam3: Path) -> None:
    from transformers import Sam3TrackerModel

    image = torch.randint(
        0, 255, (3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    prompts = [
        Prompt((10.0, 20.0, 60.0, 90.0), ((30.0, 40.0), (50.0, 50.0), (20.0, 80.0))),
        Prompt(None, ((5.0, 6.0),)),
    ]
    found = Sam2Decoder(str(sam3), device="cpu", logits=True).decode([MaskRequest(image, p) for p in prompts])
    model = Sam3TrackerModel.from_pretrained(sam3).eval()
    pixels = (image.float() / 255 - 0.5)[None] / 0.5
    for prompt, mask in zip(prompts, found, strict=True):
        inputs = {
            "input_points": torch.tensor([[prompt.points_xy_px]]),
            "input_labels": torch.ones(1, 1, len(prompt.points_xy_px), dtype=torch.int64),
        }
        if prompt.box_xyxy_px is not None:
            inputs["input_boxes"] = torch.tensor([[prompt.box_xyxy_px]])
        with torch.no_grad():
            low = model(pixel_values=pixels, multimask_output=False, **inputs).pred_masks[:, 0]
        expected = F.interpolate(low, (112, 112), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(mask, expected, atol=1e-4, rtol=1e-4)


def test_model_without_boxes_and_points_is_named(sam3: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    decoder = Sam2Decoder(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match=r"type 'clip'.*known types: sam2, .*sam3_tracker"):
        decoder.load()
