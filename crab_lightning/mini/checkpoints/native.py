"""A complete Qwen2.5-Omni checkpoint folder of a few million parameters, with random weights.

The classes, file layout and loading path are those of the published 7B model; only the sizes differ.
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
from crab_lightning.mini.checkpoints.folder import TinySizes, fresh, mrope_section, seeded
from crab_lightning.mini.checkpoints.tokenizer import SPECIAL_TOKENS, train_tokenizer

# Renders system and user turns as Qwen2.5-Omni's published template does (AV-UIE v2 section 2).
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
        ffn: Width of the language model's feed-forward layers; 3 x ``hidden`` when left out.
        vision_layers: Blocks of the vision encoder; every second one attends to whole frames, the others to
            windows.
        vision_heads: Heads of the vision encoder; ``vision_hidden / vision_heads`` must be a multiple of 4.
        audio_heads: Heads of the audio encoder.
        tie_embeddings: Share the input and output embeddings.
        rope_theta: Base of the rotary positions. With a small base, a small model does not learn to look up
            words.
        positions_per_s: Steps of the time axis of the rotary positions in one second of video. With the
            published 25, each of the few frequencies of a small model's time axis turns by 2.8 radians or
            more from one pair of frames to the next.
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

    def __post_init__(self) -> None:
        """Refuse sizes that the rotary positions cannot be laid over."""
        for name, width, heads, step in (
            ("hidden", self.hidden, self.heads, 2),
            ("vision_hidden", self.vision_hidden, self.vision_heads, 4),
            ("audio_hidden", self.audio_hidden, self.audio_heads, 1),
        ):
            if width % (heads * step):
                raise ValueError(
                    f"{name} is {width}; with {heads} heads it must be a multiple of {heads * step}"
                )
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads is {self.kv_heads}; it must divide heads ({self.heads})")


def thinker_config(sizes: TinyNativeConfig, tokenizer: Any) -> Qwen2_5OmniThinkerConfig:
    """Return a thinker config of these sizes whose token ids are the tokenizer's."""
    ids = {token.strip("<|>"): int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS}
    vision_full = tuple(i for i in range(sizes.vision_layers) if i % 2 == 1)
    made: Any = Qwen2_5OmniThinkerConfig  # takes more than its signature says
    config: Qwen2_5OmniThinkerConfig = made(
        audio_config={
            "d_model": sizes.audio_hidden,
            "encoder_layers": sizes.audio_layers,
            "encoder_attention_heads": sizes.audio_heads,
            "encoder_ffn_dim": 4 * sizes.audio_hidden,
            "output_dim": sizes.hidden,
        },
        vision_config={
            "hidden_size": sizes.vision_hidden,
            "depth": sizes.vision_layers,
            "num_heads": sizes.vision_heads,
            "intermediate_size": 3 * sizes.vision_hidden,
            "out_hidden_size": sizes.hidden,
            "fullatt_block_indexes": vision_full,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.ffn or 3 * sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": sizes.rope_theta,
                "mrope_section": mrope_section(sizes.hidden // sizes.heads),
            },
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
    """Return the published processor around another tokenizer."""
    size = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        # said out loud: left unset, newer transformers warn at every load
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=300
        ),
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
    """Write a tiny checkpoint folder: config, weights, tokenizer, processor.

    Args:
        out: Folder to write; made when absent.
        texts: What the tokenizer learns its words from; the words of the AV-UIE v2 prompts when left out.
        config: Sizes; the defaults give about 1.5 million parameters.
        seed: Seed of the random weights.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder already holds a checkpoint.
    """
    folder, sizes = fresh(out), config or TinyNativeConfig()
    tokenizer = train_tokenizer(texts, sizes.vocab)
    thinker = thinker_config(sizes, tokenizer)
    save_model(seeded(lambda: Qwen2_5OmniThinkerForConditionalGeneration(thinker), seed), folder)
    make_processor(tokenizer).save_pretrained(folder)
    return folder
