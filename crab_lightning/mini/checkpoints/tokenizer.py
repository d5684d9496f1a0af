"""Trains the byte-level tokenizers of the small checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
    *("<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>"),
)
"""The special tokens of Qwen2.5-Omni, in the order of their ids."""
NAMED_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
"""The special token for each attribute of the tokenizer of Qwen2.5-Omni."""
_BYTES = 256

# A tokenizer learns from these words of the AV-UIE v2 prompts if no other texts are given.
DEFAULT_TEXTS = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving "
    "auditory and visual inputs, as well as generating text and speech.",
    "system user assistant",
    "This is a video and an audio: These are two videos and an audio: This is a video and two audio clips: "
    "This is an image and an audio:",
    "Please identify the action taking place in the video. Please judge the person's emotion at the moment.",
    "Please describe the events and time range that occurred in the video. Please describe this video and "
    "audio.",
    "Please answer this question: how many instruments are sounding in the video? yes no one two left right",
    "<answer>true</answer> <event>dog barking</event> <range>0,3</range> <obj>(10,20)(30,40)</obj>",
)


def train_tokenizer(
    texts: Iterable[str] | None = None,
    vocab_size: int = 1500,
    special: Sequence[str] = SPECIAL_TOKENS,
    named: Mapping[str, str] = NAMED_TOKENS,
) -> Any:
    """Train a tokenizer that splits texts as the one of Qwen2.5 does.

    Each digit is a token, and every text can be encoded.

    Args:
        texts: Texts from which the tokenizer learns its tokens; by default words of the AV-UIE v2 prompts.
        vocab_size: Upper bound of the number of tokens with the special ones. Few texts give fewer tokens.
        special: Special tokens in the order of their ids; by default those of Qwen2.5-Omni.
        named: The special token for each attribute of the tokenizer; by default those of Qwen2.5-Omni.

    Returns:
        A ``PreTrainedTokenizerFast``. The ids of the special tokens follow those of the other tokens.

    Raises:
        ValueError: If ``vocab_size`` is too small for the 256 bytes and the special tokens.
    """
    room = vocab_size - len(special)
    if room < _BYTES:
        raise ValueError(f"vocab_size is {vocab_size}; at least {_BYTES + len(special)} tokens are needed")
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=room, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(DEFAULT_TEXTS if texts is None else texts, trainer)
    raw.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        extra_special_tokens=dict(named),
    )


def token_ids(tokenizer: Any, special: Sequence[str] = SPECIAL_TOKENS) -> dict[str, int]:
    """Return the id of each special token by its name without ``<|`` and ``|>``."""
    return {token.strip("<|>"): int(tokenizer.convert_tokens_to_ids(token)) for token in special}
