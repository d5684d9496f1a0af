"""Mini AV-UIE: a synthetic audio-visual dataset with exact annotations, and its small models."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.mini.checkpoints.composite import TinyLlmVaConfig as TinyLlmVaConfig
    from crab_lightning.mini.checkpoints.composite import TinyVllmAConfig as TinyVllmAConfig
    from crab_lightning.mini.checkpoints.composite import make_tiny_llm_va as make_tiny_llm_va
    from crab_lightning.mini.checkpoints.composite import make_tiny_vllm_a as make_tiny_vllm_a
    from crab_lightning.mini.checkpoints.native import TinyNativeConfig as TinyNativeConfig
    from crab_lightning.mini.checkpoints.native import make_tiny_native as make_tiny_native
    from crab_lightning.mini.checkpoints.pocket import PocketTowers as PocketTowers
    from crab_lightning.mini.checkpoints.pocket import make_pocket as make_pocket
    from crab_lightning.mini.checkpoints.qwen3_omni import TinyQwen3OmniConfig as TinyQwen3OmniConfig
    from crab_lightning.mini.checkpoints.qwen3_omni import make_tiny_qwen3_omni as make_tiny_qwen3_omni
    from crab_lightning.mini.checkpoints.tokenizer import train_tokenizer as train_tokenizer
    from crab_lightning.mini.pretrain.base import PretrainConfig as PretrainConfig
    from crab_lightning.mini.pretrain.base import pretrain_mini as pretrain_mini
    from crab_lightning.mini.pretrain.encoders import pretrain_encoders as pretrain_encoders
    from crab_lightning.mini.world.captioned import write_captions as write_captions
    from crab_lightning.mini.world.datasets import DATASETS as DATASETS
    from crab_lightning.mini.world.datasets import make_item as make_item
    from crab_lightning.mini.world.datasets import row_of as row_of
    from crab_lightning.mini.world.datasets import share_out as share_out
    from crab_lightning.mini.world.describe import describe_audio as describe_audio
    from crab_lightning.mini.world.describe import describe_moment as describe_moment
    from crab_lightning.mini.world.describe import describe_pair as describe_pair
    from crab_lightning.mini.world.describe import describe_picture as describe_picture
    from crab_lightning.mini.world.describe import describe_video as describe_video
    from crab_lightning.mini.world.item import Item as Item
    from crab_lightning.mini.world.item import MediaFile as MediaFile
    from crab_lightning.mini.world.long_clips import write_long_clips as write_long_clips
    from crab_lightning.mini.world.render import box_of as box_of
    from crab_lightning.mini.world.render import points_in as points_in
    from crab_lightning.mini.world.render import render_audio as render_audio
    from crab_lightning.mini.world.render import render_frames as render_frames
    from crab_lightning.mini.world.render import render_masks as render_masks
    from crab_lightning.mini.world.scenes import Motion as Motion
    from crab_lightning.mini.world.scenes import Scene as Scene
    from crab_lightning.mini.world.scenes import SceneObject as SceneObject
    from crab_lightning.mini.world.scenes import random_scene as random_scene
    from crab_lightning.mini.world.tree import write_mini as write_mini

__getattr__, __all__ = lazy_exports(__name__, __file__)
