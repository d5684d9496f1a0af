"""Adapter layers of every kind: how they are inserted, saved and loaded, and how their routes are read."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.adapters.batch import AnnouncedBatch as AnnouncedBatch
    from crab_lightning.adapters.batch import Places as Places
    from crab_lightning.adapters.batch import announce_batch as announce_batch
    from crab_lightning.adapters.batch import share_batch as share_batch
    from crab_lightning.adapters.checkpoint import AdapterError as AdapterError
    from crab_lightning.adapters.checkpoint import adapter_state_dict as adapter_state_dict
    from crab_lightning.adapters.checkpoint import load_adapter_state_dict as load_adapter_state_dict
    from crab_lightning.adapters.checkpoint import load_adapters as load_adapters
    from crab_lightning.adapters.checkpoint import read_adapter_config as read_adapter_config
    from crab_lightning.adapters.checkpoint import read_adapter_metadata as read_adapter_metadata
    from crab_lightning.adapters.checkpoint import save_adapters as save_adapters
    from crab_lightning.adapters.config import AdapterConfig as AdapterConfig
    from crab_lightning.adapters.insert import AdaptedGroup as AdaptedGroup
    from crab_lightning.adapters.insert import AdapterReport as AdapterReport
    from crab_lightning.adapters.insert import insert_adapters as insert_adapters
    from crab_lightning.adapters.kinds import ADAPTERS as ADAPTERS
    from crab_lightning.adapters.kinds import register_adapter as register_adapter
    from crab_lightning.adapters.kinds.ilora import ILoRALinear as ILoRALinear
    from crab_lightning.adapters.kinds.lora import LoRALinear as LoRALinear
    from crab_lightning.adapters.kinds.multi_lora import MultiLoRALinear as MultiLoRALinear
    from crab_lightning.adapters.routes import record_routes as record_routes
    from crab_lightning.adapters.routes import scale_heads as scale_heads

__getattr__, __all__ = lazy_exports(__name__, __file__)
