"""A frozen base in 4 bits, as QLoRA has it; adapters compute beside it in their own type."""

from __future__ import annotations

from typing import Any

import torch
from lightning_utilities.core.imports import RequirementCache

# The output layer is read directly when losses are summed; the encoders feed every token and are small. Their
# names are matched from the start, so they stand here as every transformers version calls them.
UNQUANTIZED = ("lm_head", "audio_tower", "visual", "model.audio_tower", "model.visual")

BITSANDBYTES = "bitsandbytes>=0.48"
"""As the extra ``quantized`` asks for it."""


def four_bit_config(compute_dtype: torch.dtype) -> Any:
    """Return transformers' setting for NF4 weights with doubly quantised scales.

    Args:
        compute_dtype: Type that a layer's weight is unpacked to when it is used.

    Raises:
        ImportError: If bitsandbytes is not installed, or too old.
        ValueError: If there is no CUDA device.

    Source: Dettmers et al., NeurIPS 2023 (arXiv:2305.14314).
    """
    if not (found := RequirementCache(BITSANDBYTES)):
        raise ImportError(
            f"quantization is '4bit' and bitsandbytes is not installed, or too old ({found}): pip install "
            f"'{BITSANDBYTES}', or leave quantization out"
        )
    if not torch.cuda.is_available():
        raise ValueError("quantization is '4bit' and there is no CUDA device; leave quantization out")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=list(UNQUANTIZED),
    )
