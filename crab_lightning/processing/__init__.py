"""One processor per paradigm: conversation and media to model inputs and labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crab_lightning.processing.base import Processor
from crab_lightning.processing.geometry import Geometry, GeometryError, audio_tokens, visual_tokens

if TYPE_CHECKING:
    from crab_lightning.processing.llm_va import LlmVaProcessor
    from crab_lightning.processing.native import NativeProcessor
    from crab_lightning.processing.vllm_a import VllmAProcessor

__all__ = [
    "Geometry",
    "GeometryError",
    "LlmVaProcessor",
    "NativeProcessor",
    "Processor",
    "VllmAProcessor",
    "audio_tokens",
    "visual_tokens",
]

# The processors import transformers, which takes seconds: only when they are asked for.
_LAZY = {
    "LlmVaProcessor": "crab_lightning.processing.llm_va",
    "NativeProcessor": "crab_lightning.processing.native",
    "VllmAProcessor": "crab_lightning.processing.vllm_a",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
