"""Makes tiny checkpoint folders with random weights for the models with connectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
from crab_lightning.mini.checkpoints.folder import TinySizes, fresh, seeded
from crab_lightning.mini.checkpoints.text_models import load_text_model
from crab_lightning.mini.checkpoints.tokenizer import token_ids, train_tokenizer

# It writes turns as the published template of Llama 3 does.
LLAMA3_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""

# It writes turns of text and the system message as the published template of Qwen2.5-VL does.
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
    """Sizes of a tiny text model with a vision encoder and an audio encoder.

    Args:
        vision_layers: Layers of the vision encoder. The model reads the output of the layer before the last.
        image_px: Side of the pictures that the vision encoder reads.
        patch_px: Side of its patches.
    """

    image_px: int = 224
    patch_px: int = 32

    multiples: ClassVar = {
        **TinySizes.multiples,
        "image_px": (1, "patch_px"),
        "vision_hidden": (8, "vision_heads"),
        "audio_hidden": (8, "audio_heads"),
    }


def make_tiny_llm_va(
    out: Path | str,
    *,
    config: TinyLlmVaConfig | None = None,
    text: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """Write the folders ``llm`` (a Llama with its tokenizer), ``clip`` and ``beats``.

    Args:
        out: Folder in which they are written. It is made if it does not exist.
        config: Sizes.
        text: Text model for ``llm`` instead of a random Llama: ``smollm2``, or the folder or hub name of a
            model.
        seed: Seed of the random weights.

    Returns:
        The folder ``out``.

    Raises:
        FileExistsError: If its folder ``llm`` already holds a checkpoint.
        FileNotFoundError: If there is no such text model.
        ImportError: If ``text`` is ``smollm2`` and its package is not installed.
        ValueError: If the tokenizer of the text model has no chat template.
    """
    given = None if text is None else load_text_model(text)
    folder = fresh(out, "llm")
    sizes = config or TinyLlmVaConfig()
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_hidden,
        intermediate_size=2 * sizes.vision_hidden,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image_px,
        patch_size=sizes.patch_px,
    )
    with seeded(seed):
        llm, tokenizer = given or _tiny_llama(sizes)
        save_model(llm, folder / "llm")
        save_model(CLIPVisionModel(vision), folder / "clip")
        save_tiny_beats(folder / "beats", sizes.audio_hidden, sizes.audio_layers, sizes.audio_heads)
    tokenizer.save_pretrained(folder / "llm")
    return folder


def _tiny_llama(sizes: TinyLlmVaConfig) -> tuple[Any, Any]:
    """Return a random Llama and its tokenizer."""
    tokenizer = llama_tokenizer(None, sizes.vocab)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(**sizes.decoder(len(tokenizer)), **ids, max_position_embeddings=8192)
    return LlamaForCausalLM(config), tokenizer


@dataclass(frozen=True)
class TinyVllmAConfig(TinySizes):
    """Sizes of a tiny Qwen2.5-VL with an audio encoder."""

    multiples: ClassVar = {**TinySizes.multiples, "hidden": (8, "heads"), "audio_hidden": (8, "audio_heads")}


def make_tiny_vllm_a(
    out: Path | str,
    *,
    config: TinyVllmAConfig | None = None,
    seed: int = 0,
) -> Path:
    """Write the folders ``vllm`` (a Qwen2.5-VL with its tokenizer) and ``beats``.

    Args:
        out: Folder in which they are written. It is made if it does not exist.
        config: Sizes.
        seed: Seed of the random weights.

    Returns:
        The folder ``out``.

    Raises:
        FileExistsError: If its folder ``vllm`` already holds a checkpoint.
    """
    folder = fresh(out, "vllm")
    sizes = config or TinyVllmAConfig()
    tokenizer = qwen_tokenizer(sizes.vocab)
    ids = token_ids(tokenizer, _QWEN_TOKENS)
    vllm = Qwen2_5_VLConfig(
        text_config={
            **sizes.decoder(len(tokenizer)),
            "max_position_embeddings": 32768,
            "rope_parameters": sizes.rope(),
            "bos_token_id": ids["im_start"],
            "eos_token_id": ids["im_end"],
            "pad_token_id": ids["endoftext"],
        },
        vision_config={
            **sizes.vision_encoder(),
            "fullatt_block_indexes": [sizes.vision_layers - 1],
            "tokens_per_second": 2,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
    )
    with seeded(seed):
        save_model(Qwen2_5_VLForConditionalGeneration(vllm), folder / "vllm")
        save_tiny_beats(folder / "beats", sizes.audio_hidden, sizes.audio_layers, sizes.audio_heads)
    tokenizer.save_pretrained(folder / "vllm")
    return folder


_QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
"""The special tokens of Qwen2.5-VL; the last four are for media."""


def save_tiny_beats(folder: Path, hidden: int, layers: int, heads: int = 2) -> None:
    """Write a BEATs encoder with random weights.

    Args:
        folder: Folder to write.
        hidden: Width of the encoder.
        layers: Layers of the encoder.
        heads: Attention heads of the encoder.
    """
    config = BeatsConfig(
        embed_dim=16,
        encoder_embed_dim=hidden,
        encoder_ffn_embed_dim=2 * hidden,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        conv_pos=16,
        conv_pos_groups=4,
        num_buckets=32,
        max_distance=80,
    )
    save_beats(Beats(config), folder)


def qwen_tokenizer(vocab: int) -> Any:
    """Return a tokenizer with the special tokens and the chat template of Qwen2.5-VL."""
    raw = train_tokenizer(None, vocab).backend_tokenizer
    raw.add_special_tokens(list(_QWEN_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={f"{token.strip('<|>')}_token": token for token in _QWEN_TOKENS[3:]},
        chat_template=QWEN_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def llama_tokenizer(texts: Iterable[str] | None, vocab: int) -> Any:
    """Return a tokenizer with the tokens and chat template of Llama 3, and without a padding token."""
    raw = train_tokenizer(texts, vocab).backend_tokenizer
    raw.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=LLAMA3_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
