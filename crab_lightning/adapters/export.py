"""Exports plain LoRA for other programs: as a PEFT folder, or added to the base weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from crab_lightning.adapters.experts import AdaptedExperts
from crab_lightning.adapters.kinds.lora import adapter_layers
from crab_lightning.compat import save_model
from crab_lightning.files import new_folder


class ExportError(ValueError):
    """The adapters of a run cannot be exported."""


def library_model(model: nn.Module) -> Any:
    """Return the transformers model that holds all adapters of a model: the model itself or a part of it.

    Raises:
        ExportError: If there are no adapters, adapters of another kind than plain LoRA, or no transformers
            model that holds all of them.
    """
    from transformers import PreTrainedModel

    layers = adapter_layers(model)
    if not layers:
        raise ExportError("the run has no adapters; there is nothing to export")
    kinds = sorted({layer.config.kind for layer in layers.values()} - {"lora"})
    if kinds:
        raise ExportError(
            f"the adapters are of kind {', '.join(kinds)}. Only the kind lora can be written for PEFT or "
            "merged into the base weights; the other kinds compute another update, most of them a different "
            "one for each token or task. Export a run of kind lora, or serve this run with `serve`"
        )
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and len(adapter_layers(module)) == len(layers):
            return module
    raise ExportError("the adapters are not all in one transformers model, so PEFT cannot name them")


def write_peft(model: nn.Module, base_name: str, out: Path) -> int:
    """Write plain LoRA as a folder that ``peft.PeftModel.from_pretrained`` reads.

    Args:
        model: The model with its adapters.
        base_name: Folder or hub name of the base weights; the written folder refers to it.
        out: Folder to write; it must not exist.

    Returns:
        The number of adapted layers.

    Raises:
        ExportError: If the adapters are not plain LoRA, are not all in one transformers model, or some are
            on experts.
        FileExistsError: If the folder exists.
    """
    inner = library_model(model)
    layers = adapter_layers(inner)
    if experts := [name for name, layer in layers.items() if layer.experts]:
        raise ExportError(
            f"{len(experts)} of the adapters are on experts (first: {experts[0]!r}), but the folder that is "
            "written for PEFT can describe linear layers only. Export with --merge, or serve this run with"
            " `serve`"
        )
    first = next(iter(layers.values())).config
    about = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_name,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(layers),
    }
    state = {}
    for name, layer in layers.items():
        state[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        state[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
    with new_folder(out) as folder:
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return len(layers)


def write_merged(model: nn.Module, processor: Any, out: Path) -> int:
    """Add plain LoRA to the base weights and write the whole checkpoint.

    This changes the model: it has no adapters afterwards. The sum is computed in float32 and stored in the
    type of the base weights, so bfloat16 weights are rounded.

    Args:
        model: The model with its adapters.
        processor: Tokenizer or processor; ``processor.save_pretrained`` writes it beside the weights.
        out: Folder to write; it must not exist.

    Returns:
        The number of merged layers.

    Raises:
        ExportError: If the adapters are not plain LoRA, or are not all in one transformers model.
        FileExistsError: If the folder exists.
    """
    inner = library_model(model)
    layers = adapter_layers(inner)
    with new_folder(out) as folder:
        for name, layer in layers.items():
            base = layer.base
            update = layer.scaling * layer.lora_B.detach().float() @ layer.lora_A.detach().float()
            with torch.no_grad():
                base.weight.copy_(base.weight.float() + update)
            parent, _, leaf = name.rpartition(".")
            if not layer.experts:
                setattr(inner.get_submodule(parent), leaf, base)
        for name, module in list(inner.named_modules()):
            if isinstance(module, AdaptedExperts):
                inner.set_submodule(name, module.restored())
        save_model(inner, folder)
        processor.save_pretrained(folder)
    return len(layers)
