"""Captions of sounds for connector pre-training, made by a model on this machine or behind an endpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.captioners.base import Captioner, CaptionerError, ClipRefused
    from crab_lightning.captioners.clips import Clip, find_clips
    from crab_lightning.captioners.endpoint import EndpointCaptioner
    from crab_lightning.captioners.qwen2_audio import Qwen2AudioCaptioner
    from crab_lightning.captioners.writer import CaptionReport, write_captions

__all__ = [
    "CaptionReport",
    "Captioner",
    "CaptionerError",
    "Clip",
    "ClipRefused",
    "EndpointCaptioner",
    "Qwen2AudioCaptioner",
    "find_clips",
    "write_captions",
]

_LAZY = {
    "CaptionReport": "crab_lightning.captioners.writer",
    "Captioner": "crab_lightning.captioners.base",
    "CaptionerError": "crab_lightning.captioners.base",
    "Clip": "crab_lightning.captioners.clips",
    "ClipRefused": "crab_lightning.captioners.base",
    "EndpointCaptioner": "crab_lightning.captioners.endpoint",
    "Qwen2AudioCaptioner": "crab_lightning.captioners.qwen2_audio",
    "find_clips": "crab_lightning.captioners.clips",
    "write_captions": "crab_lightning.captioners.writer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
