"""Settings for a frozen base model in 4 bits, as in QLoRA; adapters are not quantised."""

from __future__ import annotations

from typing import Any

import torch
from lightning_utilities.core.imports import RequirementCache

# The loss reads the weight of the output layer directly. The encoders are small, and errors in them would
# reach every token. Names are matched from their start; the list has the names of all transformers versions.
UNQUANTIZED = ("lm_head", "audio_tower", "visual", "model.audio_tower", "model.visual")

BITSANDBYTES = "bitsandbytes>=0.48"
"""The same requirement as in the extra ``quantized``."""


def four_bit_config(compute_dtype: torch.dtype) -> Any:
    """Return the ``BitsAndBytesConfig`` for NF4 weights with doubly quantised scales.

    Args:
        compute_dtype: Type to which a layer's weight is converted when it is used.

    Raises:
        ImportError: If bitsandbytes is not installed or is too old.
        ValueError: If there is no CUDA device.

    Source: Dettmers et al., NeurIPS 2023 (arXiv:2305.14314).
    """
    if not (found := RequirementCache(BITSANDBYTES)):
        raise ImportError(
            f"quantization is '4bit', but bitsandbytes is not installed or is too old ({found}). Run pip "
            f"install '{BITSANDBYTES}', or leave quantization out"
        )
    if not torch.cuda.is_available():
        raise ValueError("quantization is '4bit', but there is no CUDA device; leave quantization out")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=list(UNQUANTIZED),
    )
