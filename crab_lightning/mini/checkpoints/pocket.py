"""Makes a checkpoint of Qwen2.5-Omni with the weights of a small pre-trained text model.

Its vision and audio encoders have random weights, so its answers about clips have no meaning before training.
But it writes correct sentences, which a tiny checkpoint does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerForConditionalGeneration

from crab_lightning.compat import save_model
from crab_lightning.mini.checkpoints.folder import fresh, seeded
from crab_lightning.mini.checkpoints.native import TinyNativeConfig, make_processor, thinker_config
from crab_lightning.mini.checkpoints.text_models import SMOLLM2, load_text_model
from crab_lightning.mini.checkpoints.tokenizer import NAMED_TOKENS, SPECIAL_TOKENS

_ABSENT_BIASES = ("q_proj.bias", "k_proj.bias", "v_proj.bias")


@dataclass(frozen=True)
class PocketTowers:
    """Sizes of the vision and audio encoders, whose weights are random.

    Args:
        vision_hidden: Width of the vision encoder.
        vision_layers: Layers of the vision encoder.
        vision_heads: Attention heads of the vision encoder; ``vision_hidden / vision_heads`` must be a
            multiple of 4.
        audio_hidden: Width of the audio encoder.
        audio_layers: Layers of the audio encoder.
        audio_heads: Attention heads of the audio encoder.
    """

    vision_hidden: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    audio_hidden: int = 64
    audio_layers: int = 2
    audio_heads: int = 4


def make_pocket(
    out: Path | str,
    text: str | Path = SMOLLM2,
    *,
    config: PocketTowers | None = None,
    seed: int = 0,
) -> Path:
    """Write a checkpoint folder for ``OmniModule`` whose language model has the weights of a text model.

    Args:
        out: Folder to write. It is made if it does not exist.
        text: ``smollm2``, or the folder or hub name of a Llama or Qwen2.
        config: Sizes of the vision and audio encoders.
        seed: Seed of the random weights of both encoders.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder already holds a checkpoint.
        FileNotFoundError: If there is no such text model.
        ImportError: If ``text`` is ``smollm2`` and its package is not installed.
        ValueError: If the text model is of another architecture, or its tokenizer has no chat template.
    """
    source, tokenizer = load_text_model(text)
    refuse_other_builds(str(text), source.config)
    folder = fresh(out)
    tokenizer = with_media_tokens(tokenizer)
    thinker = thinker_around(source, tokenizer, config or PocketTowers(), seed)
    save_model(thinker, folder)
    make_processor(tokenizer).save_pretrained(folder)
    return folder


def refuse_other_builds(name: str, text: Any) -> None:
    """Check that the language model of Qwen2.5-Omni can have the weights of a text model.

    Args:
        name: Folder or hub name of the text model, for the message.
        text: Config of the text model.

    Raises:
        ValueError: If the architecture differs from the Llama or Qwen2 that it can represent.
    """
    heads = int(text.num_attention_heads)
    wide = int(getattr(text, "head_dim", None) or text.hidden_size // heads) * heads
    found = {
        "model_type": (text.model_type, ("llama", "qwen2")),
        "hidden_act": (text.hidden_act, ("silu",)),
        "rope_parameters.rope_type": (text.rope_parameters["rope_type"], ("default",)),
        "num_attention_heads x head_dim": (wide, (int(text.hidden_size),)),
        "attention_bias": (bool(getattr(text, "attention_bias", False)), (False,)),
        "mlp_bias": (bool(getattr(text, "mlp_bias", False)), (False,)),
        "use_sliding_window": (bool(getattr(text, "use_sliding_window", False)), (False,)),
    }
    for key, (value, allowed) in found.items():
        if value not in allowed:
            raise ValueError(
                f"{name}: {key} is {value!r}; the language model of Qwen2.5-Omni can only have "
                f"{' or '.join(map(repr, allowed))}. Use another text model, or the paradigm llm_va, which "
                "works with any text model"
            )


def with_media_tokens(tokenizer: Any) -> Any:
    """Return the tokenizer with the special tokens of Qwen2.5-Omni. New ones get the next free ids."""
    raw = tokenizer.backend_tokenizer
    known = raw.get_vocab(with_added_tokens=True)
    raw.add_special_tokens([token for token in SPECIAL_TOKENS if token not in known])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        extra_special_tokens=NAMED_TOKENS,
    )


def thinker_around(source: Any, tokenizer: Any, towers: PocketTowers, seed: int) -> Any:
    """Return a thinker with the weights of a text model and random encoders.

    The embedding of a new token is the mean of all embeddings. Its logit is then the mean of all logits, so
    it is never the most likely token.

    Args:
        source: The text model.
        tokenizer: The tokenizer with all special tokens of Qwen2.5-Omni.
        towers: Sizes of the encoders.
        seed: Seed of the random weights.
    """
    text = source.config
    sizes = TinyNativeConfig(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        ffn=text.intermediate_size,
        tie_embeddings=text.tie_word_embeddings,
        rope_theta=text.rope_parameters["rope_theta"],
        **vars(towers),
    )
    config: Any = thinker_config(sizes, tokenizer)
    config.text_config.rms_norm_eps = text.rms_norm_eps
    config.text_config.max_position_embeddings = text.max_position_embeddings
    vocabulary = max(len(tokenizer), text.vocab_size)  # some models have more embeddings than tokens
    config.text_config.vocab_size = vocabulary
    with seeded(seed):
        thinker: Any = Qwen2_5OmniThinkerForConditionalGeneration(config)
    state = dict(source.get_decoder().state_dict())
    state["embed_tokens.weight"] = _lengthened(state["embed_tokens.weight"], vocabulary)
    own = thinker.get_decoder().state_dict()
    for name in own.keys() - state.keys():
        if name.endswith(_ABSENT_BIASES):
            state[name] = torch.zeros_like(own[name])  # a Llama has no biases
    thinker.get_decoder().load_state_dict(state)  # raises an error if a weight is missing or unknown
    if not text.tie_word_embeddings:
        head = {"weight": _lengthened(source.get_output_embeddings().weight.data, vocabulary)}
        thinker.lm_head.load_state_dict(head)
    return thinker


def _lengthened(rows: torch.Tensor, count: int) -> torch.Tensor:
    return torch.cat((rows, rows.mean(0, keepdim=True).expand(count - len(rows), -1)))
