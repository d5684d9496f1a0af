"""Names of adapted layers that outlive a transformers version."""

from __future__ import annotations

import re

# transformers 5 renamed the towers of multimodal models in memory, some of them only in later releases, and
# translates names whenever it reads or writes its own weights. Files keep the older names, as published ones.
_RENAMED = (
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("model.audio_tower.", "audio_tower."),
)
_FSDP1_WRAPPER = "_fsdp_wrapped_module."
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.([0-9]+)\.")


def depth_of(name: str) -> int:
    """Return the layer number in the dotted name of a module; -1 where it has none.

    >>> depth_of("layers.3.mlp.up_proj"), depth_of("lm_head")
    (3, -1)
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else -1


def unwrapped_name(name: str) -> str:
    """Return the name of a module or weight as it is without the wrappers that FSDP1 puts around layers.

    >>> unwrapped_name("layers.0._fsdp_wrapped_module._fsdp_wrapped_module.mlp.up_proj")
    'layers.0.mlp.up_proj'
    """
    return name.replace(_FSDP1_WRAPPER, "")


def portable_name(name: str) -> str:
    """Return the name of a module or weight as files have it, whatever the live model calls it.

    >>> portable_name("model.language_model.layers.0.self_attn.q_proj")
    'model.layers.0.self_attn.q_proj'
    >>> portable_name("visual.blocks.0.mlp.up_proj")
    'visual.blocks.0.mlp.up_proj'
    """
    for live, filed in _RENAMED:
        if name.startswith(live):
            return filed + name.removeprefix(live)
    return name
