"""The processors: for each model, one turns conversation and media into model inputs and labels."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.processing.base import Processor as Processor
    from crab_lightning.processing.geometry import Geometry as Geometry
    from crab_lightning.processing.geometry import GeometryError as GeometryError
    from crab_lightning.processing.geometry import audio_tokens as audio_tokens
    from crab_lightning.processing.geometry import visual_tokens as visual_tokens
    from crab_lightning.processing.llm_va import LlmVaProcessor as LlmVaProcessor
    from crab_lightning.processing.native import NativeProcessor as NativeProcessor
    from crab_lightning.processing.qwen3_omni import Qwen3OmniProcessor as Qwen3OmniProcessor
    from crab_lightning.processing.vllm_a import VllmAProcessor as VllmAProcessor

__getattr__, __all__ = lazy_exports(__name__, __file__)
