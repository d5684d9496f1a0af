"""Converts official SAM2.1 ``.pt`` checkpoints to folders of transformers; every weight must have a place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crab_lightning.tensor_files import TensorFileError, UnsafeTensorFile, misfits, read_tensors

# Heads, blocks, window sizes: facebookresearch/sam2, sam2/configs/sam2.1/*.yaml.
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 96, "blocks_per_stage": [1, 2, 7, 2], "global_attention_blocks": [5, 7, 9]},
    "small": {"hidden_size": 96, "blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "base-plus": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
    "large": {
        "hidden_size": 144,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}

_HEADS = r"(output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head|object_pointer_proj)"

_RENAMED: tuple[tuple[str, str], ...] = (
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^memory_attention\.norm\.", "memory_attention.layer_norm."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    *(
        (
            rf"^memory_encoder\.mask_downsampler\.encoder\.{3 * i + j}\.",
            f"memory_encoder.mask_downsampler.layers.{i}.{part}.",
        )
        for i in range(4)
        for j, part in enumerate(("conv", "layer_norm"))
    ),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"(memory_fuser\.layers\.\d+)\.gamma$", r"\1.scale"),
    (r"(memory_fuser\.layers\.\d+)\.dwconv\.", r"\1.depthwise_conv."),
    (r"(memory_fuser\.layers\.\d+)\.pwconv(\d)\.", r"\1.pointwise_conv\2."),
    (r"(memory_fuser\.layers\.\d+)\.norm\.", r"\1.layer_norm."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"(attn\w*)\.out_proj\.", r"\1.o_proj."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (rf"{_HEADS}\.layers\.0\.", r"\1.proj_in."),
    (rf"{_HEADS}\.layers\.2\.", r"\1.proj_out."),
    (rf"{_HEADS}\.layers\.1\.", r"\1.layers.0."),
)

_GAUSSIAN = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_CORNERS = re.compile(r"^sam_prompt_encoder\.point_embeddings\.(\d)\.weight$")


def convert_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official state dict under the names of ``transformers.Sam2VideoModel``.

    The four point embeddings become one tensor, and both modules that hold the fixed frequencies get them.

    Args:
        state: Official names and tensors.

    Raises:
        ValueError: If one of the four point embeddings is missing.
    """
    converted: dict[str, Tensor] = {}
    corners: dict[int, Tensor] = {}
    for name, tensor in state.items():
        if match := _CORNERS.match(name):
            corners[int(match[1])] = tensor
            continue
        if name == _GAUSSIAN:
            converted["shared_image_embedding.positional_embedding"] = tensor
            converted["prompt_encoder.shared_embedding.positional_embedding"] = tensor.clone()
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        converted[name] = tensor
    if sorted(corners) != [0, 1, 2, 3]:
        raise ValueError(
            f"the checkpoint contains the point embeddings {sorted(corners)}, but SAM2 has 0 to 3; this is "
            "not a SAM2 checkpoint"
        )
    converted["prompt_encoder.point_embed.weight"] = torch.cat([corners[i] for i in range(4)])
    return converted


def fill_model(model: Any, state: Mapping[str, Tensor]) -> None:
    """Load an official state dict into a ``Sam2VideoModel``.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape; the message names the first.
    """
    converted = convert_names(state)
    if problems := misfits(converted, {name: value.shape for name, value in model.state_dict().items()}):
        raise ValueError(
            f"this is not a SAM2.1 checkpoint of this size; of its tensors, by their names in transformers,"
            f" {problems}"
        )
    model.load_state_dict(converted, strict=True)


def find_variant(state: Mapping[str, Tensor]) -> str:
    """Return the name of the official size (a key of ``VARIANTS``) that a state dict has.

    Raises:
        ValueError: If it has none of the official sizes.
    """
    width = state["image_encoder.trunk.pos_embed"].shape[1] if "image_encoder.trunk.pos_embed" in state else 0
    blocks = len({m[1] for k in state if (m := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", k))})
    for name, sizes in VARIANTS.items():
        if sizes["hidden_size"] == width and sum(sizes["blocks_per_stage"]) == blocks:
            return name
    raise ValueError(
        f"the checkpoint has a trunk of width {width} with {blocks} blocks; official SAM2.1 checkpoints have "
        "(width, blocks): "
        + ", ".join(f"{n} ({s['hidden_size']}, {sum(s['blocks_per_stage'])})" for n, s in VARIANTS.items())
    )


def variant_config(name: str) -> Any:
    """Return the transformers configuration of an official size, a ``Sam2VideoConfig``."""
    from transformers import Sam2VideoConfig

    sizes = VARIANTS[name]
    width, heads = sizes["hidden_size"], sizes.get("num_attention_heads", 1)
    channels = [width * factor for factor in (1, 2, 4, 8)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "embed_dim_per_stage": channels,
        "num_attention_heads_per_stage": [heads * factor for factor in (1, 2, 4, 8)],
        **sizes,
    }
    return Sam2VideoConfig(
        vision_config={"backbone_config": backbone, "backbone_channel_list": channels[::-1]}
    )


def convert_checkpoint(checkpoint: Path, out: Path) -> str:
    """Write an official ``.pt`` checkpoint as a transformers folder, for images and videos.

    Args:
        checkpoint: ``sam2.1_hiera_{tiny,small,base_plus,large}.pt``.
        out: Folder to write.

    Returns:
        Name of the size: a key of ``VARIANTS``.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If it is not an official SAM2.1 checkpoint, or cannot be read.
        UnsafeTensorFile: If reading the file would run code.
    """
    from transformers import Sam2ImageProcessor, Sam2Processor, Sam2VideoModel

    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no SAM2 checkpoint at {checkpoint}; give an official .pt file")
    try:
        content = read_tensors(checkpoint)
    except UnsafeTensorFile:
        raise
    except TensorFileError as err:
        raise ValueError(f"{err}; give an official SAM2.1 .pt file") from err
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{checkpoint} contains no entry 'model'; official SAM2.1 checkpoints do")
    name = find_variant(state)
    model = Sam2VideoModel(variant_config(name))  # Sam2Model can also read the folder
    fill_model(model, state)
    model.save_pretrained(out)
    Sam2Processor(Sam2ImageProcessor()).save_pretrained(out)
    return name
