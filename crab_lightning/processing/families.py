"""Which class reads which family of checkpoints; asked before anything else of a checkpoint is read."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from transformers import PreTrainedConfig

FAMILIES: dict[str, str] = {
    "qwen2_5_omni": "OmniModule",
    "qwen2_5_omni_thinker": "OmniModule",
    "qwen3_omni_moe": "Qwen3OmniModule",
    "qwen3_omni_moe_thinker": "Qwen3OmniModule",
    "qwen2_5_vl": "VllmAModule",
}
"""``model_type`` of a config.json -> the class that reads it. ``LlmVaModule`` takes any text model."""

_OWN = frozenset(FAMILIES.values())


class Reader(Protocol):
    """A class of processors, as far as its checkpoints go."""

    reader: ClassVar[str]
    """Name of the model class that the processor belongs to."""
    reads_text_models: ClassVar[bool]
    """Whether it reads every chat model of text beside the families that are registered for it."""


def register_family(model_type: str, reader: str) -> None:
    """Let a class read another family of checkpoints; called by the file that holds the class.

    Args:
        model_type: What config.json of such a checkpoint says.
        reader: Name of the class, as its processor's ``reader`` has it.

    Raises:
        ValueError: If another class reads this family already.
    """
    if FAMILIES.setdefault(model_type, reader) != reader:
        raise ValueError(
            f"checkpoints with model_type {model_type!r} are read by {FAMILIES[model_type]} already"
        )


def check_family(pretrained: str, processor: type[Reader]) -> None:
    """Refuse a checkpoint of a family that a class does not read; only its config.json is opened.

    Args:
        pretrained: Folder or hub name of the checkpoint.
        processor: The class of processors whose model is to read it.

    Raises:
        ValueError: If its ``model_type`` belongs to another class, or to none.
        OSError: If there is no config.json.
    """
    config: Any = PreTrainedConfig.get_config_dict(pretrained)[0]
    found = config.get("model_type") if isinstance(config, dict) else None  # None: what it holds is no config
    known = [kind for kind, name in FAMILIES.items() if name == processor.reader]
    if found in known:
        return
    if processor.reads_text_models:
        if found not in FAMILIES:
            _check_text_model(pretrained, found)
            return
        known.append("causal language models of text")
    raise ValueError(
        f"model.pretrained {pretrained}: the model_type of its config.json is {found!r}; {processor.reader} "
        f"reads {' or '.join(known) or 'no family of checkpoints'}. {_remedy(found)}"
    )


def _check_text_model(pretrained: str, found: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if found not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"model.pretrained {pretrained}: the model_type of its config.json is {found!r}, which is no "
            "causal language model that the installed transformers knows. Give a chat model such as Llama"
        )


def _remedy(found: Any) -> str:
    if found in FAMILIES:
        where = "crab_lightning.models." if FAMILIES[found] in _OWN else "the class "
        return f"Set model.class_path to {where}{FAMILIES[found]}, or give another checkpoint"
    every = ", ".join(f"{kind} ({name})" for kind, name in FAMILIES.items())
    return f"Known families: {every}; chat models of text (LlmVaModule)"
