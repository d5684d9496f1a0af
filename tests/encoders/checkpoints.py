"""Tiny checkpoints of the encoders that transformers has, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from crab_lightning.compat import save_model

PATCH, HIDDEN = 14, 32
_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def write(name: str, folder: Path, side_px: int, patch_px: int = PATCH) -> Path:
    """Write one of the checkpoints below for frames of a size, and return its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(_MAKERS[name](side_px, patch_px), folder / name)
    return folder / name


def _siglip(side_px: int, patch_px: int) -> Any:
    return transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(image_size=side_px, patch_size=patch_px, **_SIZES)
    )


def _siglip2(side_px: int, patch_px: int) -> Any:
    patches = (side_px // patch_px) ** 2
    vision = {"num_patches": patches, "patch_size": patch_px, **_SIZES}
    text = {**_SIZES, "vocab_size": 64, "num_hidden_layers": 1}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def _dinov3(side_px: int, patch_px: int) -> Any:
    sizes = {**_SIZES, "image_size": side_px, "patch_size": patch_px}
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(num_register_tokens=4, **sizes))


def _dinov2(side_px: int, patch_px: int) -> Any:
    sizes = {k: v for k, v in _SIZES.items() if k != "intermediate_size"} | {"patch_size": patch_px}
    return transformers.Dinov2Model(transformers.Dinov2Config(image_size=2 * side_px, **sizes))


def _dinov2_registers(side_px: int, patch_px: int) -> Any:
    sizes = {k: v for k, v in _SIZES.items() if k != "intermediate_size"} | {"patch_size": patch_px}
    config = transformers.Dinov2WithRegistersConfig(image_size=2 * side_px, num_register_tokens=3, **sizes)
    return transformers.Dinov2WithRegistersModel(config)


def _whisper(side_px: int, patch_px: int) -> Any:
    # it reads a second at a time, where published ones read 30
    sizes = {"d_model": HIDDEN, "num_mel_bins": 80, "vocab_size": 64, "max_source_positions": 50}
    sizes |= {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes, **tokens))


def _pe_av(side_px: int, patch_px: int) -> Any:
    sizes = {**_SIZES, "head_dim": 16}
    text = {**sizes, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text |= {"cls_token_id": 1, "sep_token_id": 2}
    del text["head_dim"]
    look = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": side_px, "patch_size": patch_px}
    pictures = {"architecture": "vit_pe_core_tiny_patch16_384", "model_args": look, "num_classes": 24}
    pictures |= {"do_pooling": True, "global_pool": "map"}
    codec = {"encoder_hidden_size": 2, "downsampling_ratios": [2, 8, 10, 12], "codebook_dim": 8}
    both = {
        "audio_config": {"dac_config": {**codec, "hidden_size": 32}, **sizes},
        "video_config": {"vision_config": pictures, **sizes},
        **sizes,
    }
    config = transformers.PeAudioVideoConfig(text_config=text, audio_video_config=both)
    return transformers.PeAudioVideoModel(config)


_MAKERS = {
    "siglip": _siglip,
    "siglip2": _siglip2,
    "dinov2": _dinov2,
    "dinov2_registers": _dinov2_registers,
    "dinov3": _dinov3,
    "whisper": _whisper,
    "pe_av": _pe_av,
}
