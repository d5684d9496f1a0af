"""Makes a complete checkpoint folder of Qwen2.5-Omni with about 1.4 million random weights.

The same classes write and read it as the published 7B model, and it has the same files. Only the sizes
differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from crab_lightning.compat import save_model
from crab_lightning.mini.checkpoints.folder import TinySizes, fresh, seeded
from crab_lightning.mini.checkpoints.tokenizer import token_ids, train_tokenizer

# It gives the same text for system and user turns as the published template of Qwen2.5-Omni.
CHAT_TEMPLATE = """\
{%- macro clip(bos, token, eos) -%}<|{{ bos }}|><|{{ token }}|><|{{ eos }}|>{%- endmacro -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}{{ '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'video' -%}{{ clip('vision_bos', 'VIDEO', 'vision_eos') }}
{%- elif part.type == 'image' -%}{{ clip('vision_bos', 'IMAGE', 'vision_eos') }}
{%- elif part.type == 'audio' -%}{{ clip('audio_bos', 'AUDIO', 'audio_eos') }}
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}
"""


@dataclass(frozen=True)
class TinyNativeConfig(TinySizes):
    """Sizes of a tiny thinker.

    Args:
        heads: Attention heads of the language model; ``hidden / heads`` must be even.
        ffn: Width of the language model's feed-forward layers; by default 3 x ``hidden``.
        vision_layers: Layers of the vision encoder. Every second one attends to whole frames, the others to
            parts of them.
        vision_heads: Attention heads of the vision encoder; ``vision_hidden / vision_heads`` must be a
            multiple of 4.
        tie_embeddings: Whether the input and output embeddings are the same weights.
        rope_theta: Base of the rotary positions. With a small base, a small model does not learn to look up
            words.
        positions_per_s: Number of positions on the time axis for one second of video. A small model has only
            a few rotary frequencies for time. With the published 25 positions, each of them turns by 2.8
            radians or more between two pairs of frames.
    """

    hidden: int = 128
    layers: int = 4
    ffn: int | None = None
    vision_hidden: int = 64
    vision_heads: int = 4
    audio_hidden: int = 64
    audio_heads: int = 4
    tie_embeddings: bool = False
    rope_theta: float = 1e6
    positions_per_s: int = 25


def thinker_config(sizes: TinyNativeConfig, tokenizer: Any) -> Qwen2_5OmniThinkerConfig:
    """Return the config of a thinker with these sizes and the token ids of the tokenizer."""
    ids = token_ids(tokenizer)
    made: Any = Qwen2_5OmniThinkerConfig  # its signature does not list all of its arguments
    config: Qwen2_5OmniThinkerConfig = made(
        audio_config={**sizes.audio_encoder(), "encoder_ffn_dim": 4 * sizes.audio_hidden},
        vision_config={
            **sizes.vision_encoder(),
            "intermediate_size": 3 * sizes.vision_hidden,
            "fullatt_block_indexes": tuple(range(1, sizes.vision_layers, 2)),
        },
        text_config={
            **sizes.decoder(len(tokenizer)),
            "intermediate_size": sizes.ffn or 3 * sizes.hidden,
            "max_position_embeddings": 32768,
            "rope_parameters": sizes.rope(sizes.rope_theta),
            "tie_word_embeddings": sizes.tie_embeddings,
        },
        audio_token_index=ids["AUDIO"],
        image_token_index=ids["IMAGE"],
        video_token_index=ids["VIDEO"],
        audio_start_token_id=ids["audio_bos"],
        audio_end_token_id=ids["audio_eos"],
        vision_start_token_id=ids["vision_bos"],
        vision_end_token_id=ids["vision_eos"],
        position_id_per_seconds=sizes.positions_per_s,
        tie_word_embeddings=sizes.tie_embeddings,
        pad_token_id=ids["endoftext"],
        bos_token_id=ids["im_start"],
        eos_token_id=ids["im_end"],
    )
    return config


def make_processor(tokenizer: Any) -> Qwen2_5OmniProcessor:
    """Return the processor of the published model with another tokenizer."""
    size = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        # Without a value for cap_pixels_per_frame, newer versions of transformers warn at each loading.
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=300),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def make_tiny_native(
    out: Path | str,
    *,
    texts: Iterable[str] | None = None,
    config: TinyNativeConfig | None = None,
    seed: int = 0,
) -> Path:
    """Write a tiny checkpoint folder with config, weights, tokenizer and processor.

    Args:
        out: Folder to write. It is made if it does not exist.
        texts: Texts from which the tokenizer learns its tokens; by default words of the AV-UIE v2 prompts.
        config: Sizes. The defaults give about 1.4 million parameters.
        seed: Seed of the random weights.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder already holds a checkpoint.
    """
    folder, sizes = fresh(out), config or TinyNativeConfig()
    tokenizer = train_tokenizer(texts, sizes.vocab)
    thinker = thinker_config(sizes, tokenizer)
    with seeded(seed):
        save_model(Qwen2_5OmniThinkerForConditionalGeneration(thinker), folder)
    make_processor(tokenizer).save_pretrained(folder)
    return folder
