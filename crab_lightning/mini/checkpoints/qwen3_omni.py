"""A complete Qwen3-Omni checkpoint folder of a million parameters, with random weights.

The classes, file layout and loading path are those of the published 30B-A3B model; only the sizes differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from crab_lightning.mini.checkpoints.folder import TinySizes, fresh, seeded
from crab_lightning.mini.checkpoints.native import CHAT_TEMPLATE
from crab_lightning.mini.checkpoints.tokenizer import train_tokenizer

# In the order of their ids in Qwen3-Omni's vocabulary.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio_pad|>",
)
NAMED_TOKENS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
_TEMPLATE = (
    CHAT_TEMPLATE.replace("vision_bos", "vision_start")
    .replace("vision_eos", "vision_end")
    .replace("audio_bos", "audio_start")
    .replace("audio_eos", "audio_end")
    .replace("'VIDEO'", "'video_pad'")
    .replace("'IMAGE'", "'image_pad'")
    .replace("'AUDIO'", "'audio_pad'")
)


@dataclass(frozen=True)
class TinyQwen3OmniConfig(TinySizes):
    """Sizes of a tiny mixture-of-experts thinker.

    Args:
        layers: Decoder layers; at least one for each layer of the vision encoder that feeds it directly.
        head_width: Width of an attention head, a multiple of 16.
        experts: Experts of a layer.
        experts_per_token: Experts that each token goes through.
        expert_ffn: Width inside an expert.
        vision_layers: Blocks of the vision encoder; all but the last also feed the first decoder layers.
        vision_heads: Heads of the vision encoder; ``vision_hidden / vision_heads`` must be a multiple of 4.
        audio_heads: Heads of the audio encoder.
    """

    layers: int = 3
    head_width: int = 16
    experts: int = 4
    experts_per_token: int = 2
    expert_ffn: int = 32
    vision_layers: int = 3
    vision_heads: int = 2
    audio_heads: int = 2

    def __post_init__(self) -> None:
        """Refuse sizes that the model cannot be laid over."""
        for name, width, step in (
            ("head_width", self.head_width, 16),
            ("vision_hidden", self.vision_hidden, 4 * self.vision_heads),
            ("audio_hidden", self.audio_hidden, self.audio_heads),
            ("heads", self.heads, self.kv_heads),
        ):
            if width % step:
                raise ValueError(f"{name} is {width}; it must be a multiple of {step}")
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token}; there are {self.experts} experts"
            )
        if self.vision_layers - 1 > self.layers:
            raise ValueError(
                f"vision_layers is {self.vision_layers}; all but the last feed a decoder layer each, and "
                f"layers is {self.layers}"
            )


def qwen3_thinker_config(sizes: TinyQwen3OmniConfig, tokenizer: Any) -> Qwen3OmniMoeThinkerConfig:
    """Return a thinker config of these sizes whose token ids are the tokenizer's."""
    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL_TOKENS}
    half = sizes.head_width // 2
    height = half * 5 // 16  # the published 24 : 20 : 20 of 64
    made: Any = Qwen3OmniMoeThinkerConfig  # takes more than its signature says
    config: Qwen3OmniMoeThinkerConfig = made(
        audio_config={
            "num_mel_bins": 128,
            "d_model": sizes.audio_hidden,
            "encoder_layers": sizes.audio_layers,
            "encoder_attention_heads": sizes.audio_heads,
            "encoder_ffn_dim": 2 * sizes.audio_hidden,
            "output_dim": sizes.hidden,
            "downsample_hidden_size": 16,
        },
        vision_config={
            "hidden_size": sizes.vision_hidden,
            "depth": sizes.vision_layers,
            "num_heads": sizes.vision_heads,
            "intermediate_size": 2 * sizes.vision_hidden,
            "out_hidden_size": sizes.hidden,
            "deepstack_visual_indexes": list(range(sizes.vision_layers - 1)),
            "num_position_embeddings": 256,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.hidden,
            "intermediate_size": 2 * sizes.hidden,
            "moe_intermediate_size": sizes.expert_ffn,
            "num_experts": sizes.experts,
            "num_experts_per_tok": sizes.experts_per_token,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_width,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half - 2 * height, height, height],
                "mrope_interleaved": True,
            },
        },
        position_id_per_seconds=13,
        audio_token_id=ids["<|audio_pad|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        audio_start_token_id=ids["<|audio_start|>"],
        audio_end_token_id=ids["<|audio_end|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|im_start|>"],
        eos_token_id=ids["<|im_end|>"],
    )
    return config


def make_qwen3_processor(tokenizer: Any) -> Qwen3OmniMoeProcessor:
    """Return the published processor around another tokenizer."""
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
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=30
        ),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
    )


def make_tiny_qwen3_omni(
    out: Path | str,
    *,
    config: TinyQwen3OmniConfig | None = None,
    seed: int = 0,
) -> Path:
    """Write a tiny checkpoint folder of about 0.4 million parameters, as ``make_tiny_native`` does."""
    folder, sizes = fresh(out), config or TinyQwen3OmniConfig()
    tokenizer = train_tokenizer(None, sizes.vocab, SPECIAL_TOKENS, NAMED_TOKENS)
    thinker = qwen3_thinker_config(sizes, tokenizer)
    seeded(lambda: Qwen3OmniMoeThinkerForConditionalGeneration(thinker), seed).save_pretrained(folder)
    make_qwen3_processor(tokenizer).save_pretrained(folder)
    return folder
