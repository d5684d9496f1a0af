"""Boxes and points to masks and back: prompts from masks, and SAM2 behind one protocol."""

from __future__ import annotations

import importlib
from typing import Any

# transformers takes seconds to import, so every name is looked up when it is first used.
_HOMES = {
    "MaskDecoder": "decoder",
    "Overlay": "overlays",
    "best_median_worst": "overlays",
    "contact_sheet": "overlays",
    "overlay_figure": "overlays",
    "save_figure": "overlays",
    "MaskRequest": "decoder",
    "Sam2Decoder": "sam2",
    "Sam2Tracker": "tracker",
    "Sam2PackageDecoder": "sam2_package",
    "convert_checkpoint": "convert",
    "Prompt": "prompts",
    "circle_iou": "prompts",
    "enclosing_box": "prompts",
    "inscribed_circles": "prompts",
    "prompt_of": "prompts",
    "prompt_text": "prompts",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
