"""The LightningModules over one thin base; they know no task and no dataset."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.models.base import AVModule
    from crab_lightning.models.llm_va import LlmVaModule
    from crab_lightning.models.native import OmniModule
    from crab_lightning.models.pocket import PocketTowers, make_pocket
    from crab_lightning.models.strategies import Fsdp1Strategy, Fsdp2Strategy
    from crab_lightning.models.tiny import TinyNativeConfig, make_tiny_native
    from crab_lightning.models.tiny_composite import (
        TinyLlmVaConfig,
        TinyVllmAConfig,
        make_tiny_llm_va,
        make_tiny_vllm_a,
    )
    from crab_lightning.models.tokenizer import train_tokenizer
    from crab_lightning.models.vllm_a import VllmAModule

__all__ = [
    "AVModule",
    "Fsdp1Strategy",
    "Fsdp2Strategy",
    "LlmVaModule",
    "OmniModule",
    "PocketTowers",
    "TinyLlmVaConfig",
    "TinyNativeConfig",
    "TinyVllmAConfig",
    "VllmAModule",
    "make_pocket",
    "make_tiny_llm_va",
    "make_tiny_native",
    "make_tiny_vllm_a",
    "train_tokenizer",
]

# All of them import lightning or transformers, which takes seconds: only when they are asked for.
_LAZY = {
    "AVModule": "crab_lightning.models.base",
    "Fsdp1Strategy": "crab_lightning.models.strategies",
    "Fsdp2Strategy": "crab_lightning.models.strategies",
    "LlmVaModule": "crab_lightning.models.llm_va",
    "OmniModule": "crab_lightning.models.native",
    "PocketTowers": "crab_lightning.models.pocket",
    "TinyLlmVaConfig": "crab_lightning.models.tiny_composite",
    "TinyNativeConfig": "crab_lightning.models.tiny",
    "TinyVllmAConfig": "crab_lightning.models.tiny_composite",
    "VllmAModule": "crab_lightning.models.vllm_a",
    "make_pocket": "crab_lightning.models.pocket",
    "make_tiny_vllm_a": "crab_lightning.models.tiny_composite",
    "make_tiny_llm_va": "crab_lightning.models.tiny_composite",
    "make_tiny_native": "crab_lightning.models.tiny",
    "train_tokenizer": "crab_lightning.models.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
