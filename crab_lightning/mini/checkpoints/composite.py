"""Tiny checkpoint folders for the models with connectors, with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from crab_lightning.compat import save_model
from crab_lightning.encoders import Beats, BeatsConfig, save_beats
from crab_lightning.mini.checkpoints.folder import TinySizes, fresh, mrope_section
from crab_lightning.mini.checkpoints.text_models import load_text_model
from crab_lightning.mini.checkpoints.tokenizer import train_tokenizer

# Writes turns as Llama 3's published template does.
LLAMA3_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""

# Writes turns of text as Qwen2.5-VL's published template does, its system message included.
QWEN_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class TinyLlmVaConfig(TinySizes):
    """Sizes of a tiny text model with encoders; the features of pictures come from the layer before the last.

    Args:
        image_px: Side of the vision encoder's pictures.
        patch_px: Side of its patches.
    """

    image_px: int = 224
    patch_px: int = 32

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide."""
        if self.hidden % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden is {self.hidden}, heads {self.heads}, kv_heads {self.kv_heads}: hidden must be a "
                "multiple of twice the heads, and heads one of kv_heads"
            )
        if self.image_px % self.patch_px:
            raise ValueError(
                f"image_px is {self.image_px}; it must be a multiple of patch_px {self.patch_px}"
            )
        for name in ("vision_hidden", "audio_hidden"):
            if getattr(self, name) % 16:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a multiple of 16")


def make_tiny_llm_va(
    out: Path | str,
    *,
    config: TinyLlmVaConfig | None = None,
    text: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """Write ``llm`` (Llama with its tokenizer), ``clip`` and ``beats`` folders.

    Args:
        out: Folder to write them in; made when absent.
        config: Sizes.
        text: What stands in ``llm`` instead of a random Llama (see ``load_text_model``).
        seed: Seed of the random weights.

    Returns:
        The folder.

    Raises:
        FileExistsError: If it already holds a checkpoint.
        ImportError: If ``text`` is ``smollm2`` and its package is not installed.
    """
    given = None if text is None else load_text_model(text)
    folder = fresh(out, "llm")
    sizes = config or TinyLlmVaConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if given is None:
            tokenizer = llama_tokenizer(None, sizes.vocab)
            model = _tiny_llama(sizes, tokenizer)
        else:
            model, tokenizer = given
        save_model(model, folder / "llm")
        vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=sizes.vision_hidden,
                intermediate_size=2 * sizes.vision_hidden,
                num_hidden_layers=sizes.vision_layers,
                num_attention_heads=2,
                image_size=sizes.image_px,
                patch_size=sizes.patch_px,
            )
        )
        save_model(vision, folder / "clip")
        save_tiny_beats(folder / "beats", sizes.audio_hidden, sizes.audio_layers)
    tokenizer.save_pretrained(folder / "llm")
    return folder


def _tiny_llama(sizes: TinyLlmVaConfig, tokenizer: Any) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.hidden,
            intermediate_size=3 * sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            max_position_embeddings=8192,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@dataclass(frozen=True)
class TinyVllmAConfig(TinySizes):
    """Sizes of a tiny Qwen2.5-VL with an audio encoder.

    Args:
        vision_heads: Heads of the vision encoder.
    """

    vision_heads: int = 2

    def __post_init__(self) -> None:
        """Refuse sizes that the rotary positions cannot be laid over."""
        if self.hidden % (8 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden is {self.hidden}, heads {self.heads}, kv_heads {self.kv_heads}: hidden must be a "
                "multiple of eight times the heads, and heads one of kv_heads"
            )
        if self.vision_hidden % (4 * self.vision_heads) or self.audio_hidden % 16:
            raise ValueError(
                f"vision_hidden is {self.vision_hidden}, audio_hidden {self.audio_hidden}; they must be "
                "multiples of four times vision_heads, and of 16"
            )


def make_tiny_vllm_a(
    out: Path | str,
    *,
    config: TinyVllmAConfig | None = None,
    seed: int = 0,
) -> Path:
    """Write ``vllm`` (Qwen2.5-VL with its tokenizer) and ``beats``, as :func:`make_tiny_llm_va` does."""
    folder = fresh(out, "vllm")
    sizes = config or TinyVllmAConfig()
    tokenizer = qwen_tokenizer(sizes.vocab)
    ids = {name: int(tokenizer.convert_tokens_to_ids(f"<|{name}|>")) for name in _VISION_TOKENS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    "vocab_size": len(tokenizer),
                    "hidden_size": sizes.hidden,
                    "intermediate_size": 3 * sizes.hidden,
                    "num_hidden_layers": sizes.layers,
                    "num_attention_heads": sizes.heads,
                    "num_key_value_heads": sizes.kv_heads,
                    "max_position_embeddings": 32768,
                    "rope_parameters": {
                        "rope_type": "default",
                        "rope_theta": 1e6,
                        "mrope_section": mrope_section(sizes.hidden // sizes.heads),
                    },
                    "bos_token_id": ids["im_start"],
                    "eos_token_id": ids["im_end"],
                    "pad_token_id": ids["endoftext"],
                },
                vision_config={
                    "hidden_size": sizes.vision_hidden,
                    "depth": sizes.vision_layers,
                    "num_heads": sizes.vision_heads,
                    "intermediate_size": 2 * sizes.vision_hidden,
                    "out_hidden_size": sizes.hidden,
                    "fullatt_block_indexes": [sizes.vision_layers - 1],
                    "tokens_per_second": 2,
                },
                image_token_id=ids["image_pad"],
                video_token_id=ids["video_pad"],
                vision_start_token_id=ids["vision_start"],
                vision_end_token_id=ids["vision_end"],
                tie_word_embeddings=False,
            )
        )
        save_model(model, folder / "vllm")
        save_tiny_beats(folder / "beats", sizes.audio_hidden, sizes.audio_layers)
    tokenizer.save_pretrained(folder / "vllm")
    return folder


_VISION_TOKENS = (
    "endoftext",
    "im_start",
    "im_end",
    "vision_start",
    "vision_end",
    "image_pad",
    "video_pad",
)


def save_tiny_beats(folder: Path, hidden: int, layers: int) -> None:
    """Write a BEATs encoder with random weights."""
    config = BeatsConfig(
        embed_dim=16,
        encoder_embed_dim=hidden,
        encoder_ffn_embed_dim=2 * hidden,
        encoder_layers=layers,
        encoder_attention_heads=2,
        conv_pos=16,
        conv_pos_groups=4,
        num_buckets=32,
        max_distance=80,
    )
    save_beats(Beats(config), folder)


def qwen_tokenizer(vocab: int) -> Any:
    """Return a tokenizer with Qwen2.5-VL's markup and chat template."""
    raw = train_tokenizer(None, vocab).backend_tokenizer
    raw.add_special_tokens([f"<|{name}|>" for name in _VISION_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={f"{name}_token": f"<|{name}|>" for name in _VISION_TOKENS[3:]},
        chat_template=QWEN_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def llama_tokenizer(texts: Iterable[str] | None, vocab: int) -> Any:
    """Return a tokenizer with Llama 3's markup and chat template, and like it without a padding token."""
    raw = train_tokenizer(texts, vocab).backend_tokenizer
    raw.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=LLAMA3_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
