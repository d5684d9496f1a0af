"""Makes a complete checkpoint folder of Qwen3-Omni with about 0.4 million random weights.

The same classes write and read it as the published 30B-A3B model, and it has the same files. Only the sizes
differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from crab_lightning.compat import save_model
from crab_lightning.mini.checkpoints.folder import TinySizes, fresh, seeded
from crab_lightning.mini.checkpoints.native import CHAT_TEMPLATE
from crab_lightning.mini.checkpoints.tokenizer import NAMED_TOKENS as OMNI_TOKENS
from crab_lightning.mini.checkpoints.tokenizer import token_ids, train_tokenizer

# The names of tokens of Qwen2.5-Omni, and the names of the same tokens in Qwen3-Omni.
_RENAMED = {
    "vision_bos": "vision_start",
    "vision_eos": "vision_end",
    "audio_bos": "audio_start",
    "audio_eos": "audio_end",
    "IMAGE": "image_pad",
    "VIDEO": "video_pad",
    "AUDIO": "audio_pad",
}
NAMED_TOKENS = {key: f"<|{_RENAMED[token.strip('<|>')]}|>" for key, token in OMNI_TOKENS.items()}
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    *("<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"),
)
"""The special tokens of Qwen3-Omni, in the order of their ids."""
_TEMPLATE = re.sub(r"(?<=')\w+(?=')", lambda name: _RENAMED.get(name[0], name[0]), CHAT_TEMPLATE)


@dataclass(frozen=True)
class TinyQwen3OmniConfig(TinySizes):
    """Sizes of a tiny mixture-of-experts thinker.

    Args:
        layers: Decoder layers; at least ``vision_layers - 1``.
        head_width: Width of an attention head; a multiple of 16.
        experts: Experts of a layer.
        experts_per_token: Number of experts that process each token.
        expert_ffn: Width inside an expert.
        vision_layers: Layers of the vision encoder. The output of each layer but the last is also added in
            one of the first decoder layers.
        vision_heads: Attention heads of the vision encoder; ``vision_hidden / vision_heads`` must be a
            multiple of 4.
    """

    layers: int = 3
    head_width: int = 16
    experts: int = 4
    experts_per_token: int = 2
    expert_ffn: int = 32
    vision_layers: int = 3

    multiples: ClassVar = {**TinySizes.multiples, "hidden": (1, ""), "head_width": (16, "")}

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: If the model cannot have these sizes.
        """
        super().__post_init__()
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token}; it must be at most experts ({self.experts})"
            )
        if self.vision_layers - 1 > self.layers:
            raise ValueError(
                f"vision_layers is {self.vision_layers}; it must be at most layers + 1 ({self.layers + 1}), "
                "because each vision layer but the last needs a decoder layer of its own"
            )


def qwen3_thinker_config(sizes: TinyQwen3OmniConfig, tokenizer: Any) -> Qwen3OmniMoeThinkerConfig:
    """Return the config of a thinker with these sizes and the token ids of the tokenizer."""
    ids = token_ids(tokenizer, SPECIAL_TOKENS)
    half = sizes.head_width // 2
    height = half * 5 // 16  # in the published model, time, height and width have 24, 20 and 20 of 64 pairs
    made: Any = Qwen3OmniMoeThinkerConfig  # its signature does not list all of its arguments
    config: Qwen3OmniMoeThinkerConfig = made(
        audio_config={**sizes.audio_encoder(), "num_mel_bins": 128, "downsample_hidden_size": 16},
        vision_config={
            **sizes.vision_encoder(),
            "deepstack_visual_indexes": list(range(sizes.vision_layers - 1)),
            "num_position_embeddings": 256,
        },
        text_config={
            **sizes.decoder(len(tokenizer)),
            "intermediate_size": 2 * sizes.hidden,
            "moe_intermediate_size": sizes.expert_ffn,
            "num_experts": sizes.experts,
            "num_experts_per_tok": sizes.experts_per_token,
            "head_dim": sizes.head_width,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half - 2 * height, height, height],
                "mrope_interleaved": True,
            },
        },
        position_id_per_seconds=13,
        audio_token_id=ids["audio_pad"],
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        audio_start_token_id=ids["audio_start"],
        audio_end_token_id=ids["audio_end"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        pad_token_id=ids["endoftext"],
        bos_token_id=ids["im_start"],
        eos_token_id=ids["im_end"],
    )
    return config


def make_qwen3_processor(tokenizer: Any) -> Qwen3OmniMoeProcessor:
    """Return the processor of the published model with another tokenizer."""
    half = [0.5, 0.5, 0.5]
    shared: dict[str, Any] = {"patch_size": 16, "image_mean": half, "image_std": half}
    return Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 56 * 56, "longest_edge": 12_845_056}, **shared
        ),
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
            cap_pixels_per_frame=False,
            **shared,
        ),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=30),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
    )


def make_tiny_qwen3_omni(
    out: Path | str,
    *,
    config: TinyQwen3OmniConfig | None = None,
    seed: int = 0,
) -> Path:
    """Write a tiny checkpoint folder with config, weights, tokenizer and processor.

    Args:
        out: Folder to write. It is made if it does not exist.
        config: Sizes. The defaults give about 0.4 million parameters.
        seed: Seed of the random weights.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder already holds a checkpoint.
    """
    folder, sizes = fresh(out), config or TinyQwen3OmniConfig()
    tokenizer = train_tokenizer(None, sizes.vocab, SPECIAL_TOKENS, NAMED_TOKENS)
    thinker = qwen3_thinker_config(sizes, tokenizer)
    with seeded(seed):
        save_model(Qwen3OmniMoeThinkerForConditionalGeneration(thinker), folder)
    make_qwen3_processor(tokenizer).save_pretrained(folder)
    return folder
