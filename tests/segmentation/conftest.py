from pathlib import Path
from typing import Any

import pytest
import torch

CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
OVERRIDES = (
    "++model.image_size=128",
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,1,3,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=1",
)
"""The official model, small: its code, names and switches."""


def small_config() -> Any:
    """The same sizes for transformers."""
    from transformers import Sam2Config

    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "embed_dim_per_stage": [16, 32, 64, 128],
                "blocks_per_stage": [1, 1, 3, 1],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={"image_size": 128},
    )


def small_video_config() -> Any:
    """The same sizes with the video predictor's memory."""
    from transformers import Sam2VideoConfig

    image = small_config()
    return Sam2VideoConfig(
        vision_config=image.vision_config,
        prompt_encoder_config=image.prompt_encoder_config.to_dict(),
        mask_decoder_config=image.mask_decoder_config.to_dict(),
        image_size=128,
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[8, 8],
    )


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights in the official layout."""
    build = pytest.importorskip("sam2.build_sam", reason="the sam2 package is an extra")
    torch.manual_seed(0)
    model = build.build_sam2(CONFIG, None, device="cpu", hydra_overrides_extra=list(OVERRIDES))
    path = tmp_path_factory.mktemp("sam2") / "small.pt"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def converted(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a transformers folder."""
    from transformers import Sam2ImageProcessor, Sam2Model

    from crab_lightning.segmentation.convert import fill_model

    model = Sam2Model(small_config())
    fill_model(model, torch.load(official, weights_only=True)["model"])
    folder = tmp_path_factory.mktemp("sam2-transformers")
    model.save_pretrained(folder)
    Sam2ImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_video_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of a tiny SAM2 with memory and random weights; needs no other package."""
    from transformers import Sam2ImageProcessor, Sam2VideoModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2-video-random")
    Sam2VideoModel(small_video_config()).save_pretrained(folder)
    Sam2ImageProcessor().save_pretrained(folder)
    return folder
