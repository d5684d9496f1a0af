"""The class that reads each ``model_type`` of checkpoints, checked before weights are read."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from transformers import PreTrainedConfig

from crab_lightning.files import refuse_no_checkpoint

FAMILIES: dict[str, str] = {
    "qwen2_5_omni": "OmniModule",
    "qwen2_5_omni_thinker": "OmniModule",
    "qwen3_omni_moe": "Qwen3OmniModule",
    "qwen3_omni_moe_thinker": "Qwen3OmniModule",
    "qwen2_5_vl": "VllmAModule",
}
"""For each ``model_type`` of a config.json, the class that reads it. ``LlmVaModule`` reads any text model."""

_OWN = frozenset({*FAMILIES.values(), "LlmVaModule"})


class Reader(Protocol):
    """The properties of a processor class that say which checkpoints it reads."""

    reader: ClassVar[str]
    """Name of the model class to which the processor belongs."""
    reads_text_models: ClassVar[bool]
    """Whether it also reads all chat models for text."""


def register_family(model_type: str, reader: str) -> None:
    """Let a class read another ``model_type`` of checkpoints. The file with the class calls this function.

    Args:
        model_type: The ``model_type`` in the config.json of such a checkpoint.
        reader: Name of the class, which is also the ``reader`` of its processor.

    Raises:
        ValueError: If another class already reads this ``model_type``.
    """
    if FAMILIES.setdefault(model_type, reader) != reader:
        raise ValueError(
            f"checkpoints with model_type {model_type!r} are read by {FAMILIES[model_type]} already"
        )


def check_family(pretrained: str, processor: type[Reader]) -> None:
    """Check that a class can read a checkpoint. Only the config.json is opened.

    Args:
        pretrained: Folder or hub name of the checkpoint.
        processor: The processor class of the model.

    Raises:
        ValueError: If the ``model_type`` of the checkpoint belongs to another class, or is not known.
        OSError: If there is no config.json.
    """
    refuse_no_checkpoint(pretrained, "model.pretrained")
    config: Any = PreTrainedConfig.get_config_dict(pretrained)[0]
    found = config.get("model_type") if isinstance(config, dict) else None  # None: the file is not a config
    known = [kind for kind, name in FAMILIES.items() if name == processor.reader]
    if found in known:
        return
    if processor.reads_text_models:
        if found not in FAMILIES:
            _check_text_model(pretrained, found, processor.reader)
            return
        known.append("causal language models of text")
    raise ValueError(
        f"model.pretrained {pretrained}: the model_type of its config.json is {found!r}; {processor.reader} "
        f"reads {' or '.join(known) or 'no family of checkpoints'}. {_remedy(found, processor.reader)}"
    )


def _check_text_model(pretrained: str, found: Any, reader: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if found not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own = "" if reader in _OWN else f". {_remedy(found, reader)}"
        raise ValueError(
            f"model.pretrained {pretrained}: the model_type of its config.json is {found!r}, which is not a "
            "causal language model that the installed transformers knows. Give a chat model such as Llama"
            f"{own}"
        )


def _remedy(found: Any, reader: str) -> str:
    if found in FAMILIES:
        name = FAMILIES[found]
        if name in _OWN:
            return f"Set model.class_path to crab_lightning.models.{name}, or give another checkpoint"
        return (
            f"Set model.class_path to the class {name}, or give another checkpoint. If it is {name} already,"
            f" its processor_class needs reader = {name!r}"
        )
    if reader not in FAMILIES.values():
        return f"Call register_family({found!r}, {reader!r}) in the file of that class"
    every = ", ".join(f"{kind} ({name})" for kind, name in FAMILIES.items())
    return f"Known families: {every}; chat models of text (LlmVaModule)"
