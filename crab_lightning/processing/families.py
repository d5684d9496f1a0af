"""Which class reads which family of checkpoints; asked before anything else of a checkpoint is read."""

from __future__ import annotations

from typing import Any

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


def check_family(pretrained: str, reader: str) -> None:
    """Refuse a checkpoint of a family that a class does not read; only its config.json is opened.

    Args:
        pretrained: Folder or hub name of the checkpoint.
        reader: Name of the class that is to read it.

    Raises:
        ValueError: If its ``model_type`` belongs to another class, or to none.
        OSError: If there is no config.json.
    """
    config: dict[str, Any] = PreTrainedConfig.get_config_dict(pretrained)[0]
    found = config.get("model_type")
    if reader == "LlmVaModule":
        if found not in FAMILIES:
            _check_text_model(pretrained, found)
            return
        known = "causal language models of text"
    else:
        types = [kind for kind, name in FAMILIES.items() if name == reader]
        if found in types:
            return
        known = " or ".join(types)
    raise ValueError(
        f"model.pretrained {pretrained}: the model_type of its config.json is {found!r}; {reader} reads "
        f"{known}. {_remedy(found)}"
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
