"""The models as LightningModules; they do not depend on tasks and datasets."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    # configs written before version 0.2 import the strategies from here
    from crab_lightning.distributed.strategies import Fsdp1Strategy as Fsdp1Strategy
    from crab_lightning.distributed.strategies import Fsdp2Strategy as Fsdp2Strategy
    from crab_lightning.models.asked import AskedModule as AskedModule
    from crab_lightning.models.base import AVModule as AVModule
    from crab_lightning.models.composite import CompositeModule as CompositeModule
    from crab_lightning.models.endpoint import EndpointModule as EndpointModule
    from crab_lightning.models.llm_va import LlmVaModule as LlmVaModule
    from crab_lightning.models.native import OmniModule as OmniModule
    from crab_lightning.models.qwen3_omni import Qwen3OmniModule as Qwen3OmniModule
    from crab_lightning.models.stored import StoredModule as StoredModule
    from crab_lightning.models.vllm_a import VllmAModule as VllmAModule

__getattr__, __all__ = lazy_exports(__name__, __file__)
