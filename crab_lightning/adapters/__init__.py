"""Adapter layers of every kind: insertion, saving, loading and a look at the routes."""

from crab_lightning.adapters.batch import AnnouncedBatch, Places, announce_batch, share_batch
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
from crab_lightning.adapters.kinds import ADAPTERS, register_adapter
from crab_lightning.adapters.kinds.ilora import ILoRALinear
from crab_lightning.adapters.kinds.lora import LoRALinear
from crab_lightning.adapters.kinds.multi_lora import MultiLoRALinear
from crab_lightning.adapters.routes import record_routes, scale_heads

__all__ = [
    "ADAPTERS",
    "AdaptedGroup",
    "AdapterConfig",
    "AdapterError",
    "AdapterReport",
    "AnnouncedBatch",
    "ILoRALinear",
    "LoRALinear",
    "MultiLoRALinear",
    "Places",
    "adapter_state_dict",
    "announce_batch",
    "insert_adapters",
    "load_adapter_state_dict",
    "load_adapters",
    "read_adapter_config",
    "read_adapter_metadata",
    "record_routes",
    "register_adapter",
    "save_adapters",
    "scale_heads",
    "share_batch",
]
