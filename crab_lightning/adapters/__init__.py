"""LoRA and I-LoRA layers: insertion, saving, loading and a look at the routes."""

from crab_lightning.adapters.checkpoint import (
    AdapterError,
    adapter_state_dict,
    load_adapter_state_dict,
    load_adapters,
    read_adapter_config,
    read_adapter_metadata,
    save_adapters,
)
from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.insert import AdaptedGroup, AdapterReport, insert_adapters
from crab_lightning.adapters.layers import ILoRALinear, LoRALinear
from crab_lightning.adapters.multi_lora import MultiLoRALinear, TaskChoice, choose_tasks, share_choice
from crab_lightning.adapters.registry import ADAPTERS
from crab_lightning.adapters.routes import record_routes, scale_heads

__all__ = [
    "ADAPTERS",
    "AdaptedGroup",
    "AdapterConfig",
    "AdapterError",
    "AdapterReport",
    "ILoRALinear",
    "LoRALinear",
    "MultiLoRALinear",
    "TaskChoice",
    "adapter_state_dict",
    "choose_tasks",
    "insert_adapters",
    "load_adapter_state_dict",
    "load_adapters",
    "read_adapter_config",
    "read_adapter_metadata",
    "record_routes",
    "save_adapters",
    "scale_heads",
    "share_choice",
]
