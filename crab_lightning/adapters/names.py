"""Names of adapted layers in files, which are the same for every version of transformers."""

from __future__ import annotations

import re

# transformers 5 renamed the towers of multimodal models in memory, some of them only in later releases. It
# translates the names when it reads or writes weights. Our files keep the older names, as published files do.
_RENAMED = (
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("model.audio_tower.", "audio_tower."),
)
_FSDP1_WRAPPER = "_fsdp_wrapped_module."
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.([0-9]+)\.")


def depth_of(name: str) -> int:
    """Return the layer number in the dotted name of a module; -1 if the name has no layer number.

    >>> depth_of("layers.3.mlp.up_proj"), depth_of("lm_head")
    (3, -1)
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else -1


def unwrapped_name(name: str) -> str:
    """Return the name of a module or weight without the parts that the wrappers of FSDP1 add.

    >>> unwrapped_name("layers.0._fsdp_wrapped_module._fsdp_wrapped_module.mlp.up_proj")
    'layers.0.mlp.up_proj'
    """
    return name.replace(_FSDP1_WRAPPER, "")


def portable_name(name: str) -> str:
    """Return the name that a module or weight has in files, for any name that it has in a loaded model.

    >>> portable_name("model.language_model.layers.0.self_attn.q_proj")
    'model.layers.0.self_attn.q_proj'
    >>> portable_name("visual.blocks.0.mlp.up_proj")
    'visual.blocks.0.mlp.up_proj'
    """
    for live, filed in _RENAMED:
        if name.startswith(live):
            return filed + name.removeprefix(live)
    return name
