import json
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
def video_model(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a transformers folder with memory."""
    from transformers import Sam2ImageProcessor, Sam2VideoModel

    from crab_lightning.segmentation.convert import fill_model

    model = Sam2VideoModel(small_video_config())
    fill_model(model, torch.load(official, weights_only=True)["model"])
    folder = tmp_path_factory.mktemp("sam2-video")
    model.save_pretrained(folder)
    Sam2ImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def converted(video_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a transformers folder without memory."""
    from transformers import Sam2ImageProcessor, Sam2Model

    folder = tmp_path_factory.mktemp("sam2-transformers")
    Sam2Model.from_pretrained(video_model, config=small_config()).save_pretrained(folder)
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


# Memory is 64 wide in the code of every family, and features have to be wider than that.
_WIDTH = 128
_MEMORY = {
    "memory_attention_hidden_size": _WIDTH,
    "memory_attention_num_layers": 1,
    "memory_attention_rope_feat_sizes": [8, 8],
    "memory_encoder_hidden_size": _WIDTH,
    "mask_downsampler_embed_dim": _WIDTH,
    "memory_fuser_embed_dim": _WIDTH,
    "memory_fuser_intermediate_dim": 64,
}
_MASKS = {"hidden_size": _WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": _WIDTH}
_MAPS = [[32, 32], [16, 16], [8, 8]]


@pytest.fixture(scope="session")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights laid out as ``facebook/sam3``: detector, tracker and tokenizer in one folder."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3VideoConfig, Sam3VideoModel

    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": _WIDTH,
        "backbone_feature_sizes": _MAPS,
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
    }
    letters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    small = {"hidden_size": _WIDTH, "num_attention_heads": 2, "intermediate_size": 64, "num_layers": 1}
    config = Sam3VideoConfig(
        detector_config={
            "model_type": "sam3",
            "vision_config": vision,
            "text_config": {
                "model_type": "clip_text_model",
                "vocab_size": len(words),
                "hidden_size": 32,
                "intermediate_size": 64,
                "projection_dim": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 32,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": 1,
            },
            "geometry_encoder_config": small,
            "detr_encoder_config": small,
            "detr_decoder_config": small | {"num_queries": 5},
            "mask_decoder_config": {"hidden_size": _WIDTH, "num_attention_heads": 2},
        },
        tracker_config={
            "model_type": "sam3_tracker_video",
            "image_size": 112,
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": _WIDTH, "image_size": 112, "mask_input_channels": 4},
            "mask_decoder_config": _MASKS,
            "memory_attention_feed_forward_hidden_size": 64,
            **_MEMORY,
        },
        low_res_mask_size=32,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam3")
    Sam3VideoModel(config).save_pretrained(folder)
    Sam3ImageProcessor(size={"height": 112, "width": 112}).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def edgetam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EdgeTAM with memory and random weights."""
    pytest.importorskip("timm", reason="EdgeTAM's encoder is timm's")
    pytest.importorskip("transformers", "5.20", reason="older ones ask the hub for EdgeTAM's default config")
    from safetensors.torch import save_file
    from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, Sam2ImageProcessor

    config = EdgeTamVideoConfig(
        vision_config={
            "model_type": "edgetam_vision_model",
            "backbone_channel_list": [16] * 4,
            "backbone_feature_sizes": _MAPS,
            "fpn_hidden_size": _WIDTH,
            "backbone_config": {
                "model_type": "timm_wrapper",
                "architecture": "repvit_m1.dist_in1k",
                "num_classes": 2,
                "label_names": ["a", "b"],
                "model_args": {
                    "in_chans": 3,
                    "features_only": True,
                    "out_indices": [0, 1, 2, 3],
                    "embed_dim": [16] * 4,
                    "depth": [1] * 4,
                },
            },
        },
        prompt_encoder_config={"hidden_size": _WIDTH, "image_size": 128, "mask_input_channels": 4},
        mask_decoder_config=_MASKS,
        image_size=128,
        memory_attention_mlp_hidden_size=64,
        memory_attention_rope_k_sizes=[4, 4],
        perceiver_resampler_num_latents=16,
        perceiver_resampler_num_latents_2d=16,
        perceiver_resampler_mlp_intermediate_size=32,
        perceiver_resampler_num_layers=1,
        **_MEMORY,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("edgetam")
    # Not by save_pretrained: in transformers 5.17 it makes a default config, which asks the hub.
    model = EdgeTamVideoModel(config)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"model_type": "edgetam_video"}))
    Sam2ImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    return folder
