"""Captions of sounds for connector pre-training, made by a model on this machine or at an endpoint."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.captioners.base import Captioner as Captioner
    from crab_lightning.captioners.base import CaptionerError as CaptionerError
    from crab_lightning.captioners.clips import find_clips as find_clips
    from crab_lightning.captioners.endpoint import EndpointCaptioner as EndpointCaptioner
    from crab_lightning.captioners.local import Qwen2AudioCaptioner as Qwen2AudioCaptioner
    from crab_lightning.captioners.local import local_captioner as local_captioner
    from crab_lightning.captioners.writer import write_captions as write_captions

__getattr__, __all__ = lazy_exports(__name__, __file__)
