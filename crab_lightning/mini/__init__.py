"""Mini AV-UIE: a synthetic audio-visual world with exact truth, in memory or as an AV-UIE v2 tree."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "DATASETS": "datasets",
    "Item": "item",
    "MediaFile": "item",
    "Motion": "world",
    "Scene": "world",
    "SceneObject": "world",
    "describe_audio": "describe",
    "describe_moment": "describe",
    "describe_pair": "describe",
    "describe_picture": "describe",
    "describe_video": "describe",
    "random_scene": "describe",
    "make_item": "datasets",
    "row_of": "datasets",
    "share_out": "datasets",
    "write_captions": "captioned",
    "write_mini": "tree",
    "render_audio": "render",
    "render_frames": "render",
    "render_masks": "render",
    "box_of": "render",
    "points_in": "render",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"crab_lightning.mini has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f"crab_lightning.mini.{_HOMES[name]}"), name)
