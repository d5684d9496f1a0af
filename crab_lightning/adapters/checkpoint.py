"""Saves and loads adapters: the weights in ``adapter.safetensors``, a description in ``adapter.json``."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.kinds import all_keys, own_keys
from crab_lightning.adapters.kinds.lora import adapter_layers
from crab_lightning.adapters.names import portable_name, unwrapped_name
from crab_lightning.files import replace_file
from crab_lightning.tensor_files import misfits

WEIGHTS_FILE = "adapter.safetensors"
CONFIG_FILE = "adapter.json"
_FORMAT = 1


class AdapterError(ValueError):
    """An adapter checkpoint cannot be read, or does not fit the model or the run."""


def _adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for module_name, module in adapter_layers(model).items():
        for name, parameter in module.named_parameters(recurse=False):
            yield unwrapped_name(f"{module_name}.{name}") if module_name else name, parameter


def whole(weight: Tensor) -> Tensor:
    """Return a detached weight; a sharded one is gathered, so every rank has to call this function."""
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach()


@torch.no_grad()
def fill(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy values to the weights of the same names, in their types; a sharded weight gets its own part."""
    for name, weight in weights.items():
        value = state[name]
        if isinstance(weight, DTensor):
            value = value.to(weight.device, weight.dtype)
            value = distribute_tensor(value, weight.device_mesh, weight.placements)
        weight.copy_(value)


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the adapters by dotted name, detached.

    Sharded weights are gathered, so every rank has to call this function.

    Raises:
        AdapterError: If the model has no adapters.
    """
    state = {name: whole(parameter) for name, parameter in _adapter_parameters(model)}
    if not state:
        raise AdapterError(f"{type(model).__name__} has no adapters; call insert_adapters first")
    return state


def load_adapter_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into the model's adapters; nothing is copied unless all of them fit.

    Args:
        model: The model with the same adapters.
        state: Weights as ``adapter_state_dict`` returns them; they are cast to the type of the layers.

    Raises:
        AdapterError: If names are missing or unexpected, or shapes differ.
    """
    parameters = dict(_adapter_parameters(model))
    if not parameters:
        raise AdapterError(f"{type(model).__name__} has no adapters; call insert_adapters first")
    if problems := misfits(state, {name: p.shape for name, p in parameters.items()}):
        raise AdapterError(
            f"the adapter weights of the checkpoint do not fit the model; {problems}. Insert adapters with"
            " the checkpoint's own configuration (read_adapter_config)"
        )
    fill(parameters, state)


def _common_config(model: nn.Module) -> AdapterConfig:
    configs: list[AdapterConfig] = []
    for layer in adapter_layers(model).values():
        if layer.config not in configs:
            configs.append(layer.config)
    if len(configs) != 1:
        raise AdapterError(
            f"the adapters have {len(configs)} different configurations; only one can be saved"
        )
    return configs[0]


def save_adapters(model: nn.Module, folder: Path | str, metadata: Mapping[str, Any]) -> None:
    """Write the adapters to ``adapter.safetensors`` and a description of them to ``adapter.json``.

    The files contain layer names that do not depend on the version of transformers. Each file is written
    under another name, flushed to disk and then renamed, so it is either complete or absent. Both files
    contain the same random id, so that files of two different saves are not mixed. The file with the weights
    also contains the description, so the save is complete even if the process is stopped between the two
    files. In a distributed run every rank calls this function and rank 0 writes.

    Args:
        model: The model; all its adapters have the same config.
        folder: Folder to write; it is made if it does not exist.
        metadata: Other facts that the weights depend on, such as the base model and the input geometry. They
            must be values that JSON can hold.

    Raises:
        AdapterError: If the model has no adapters or adapters with different configs, or two layers would
            get the same name.
    """
    live = adapter_state_dict(model)
    state = {portable_name(name): value.cpu().contiguous() for name, value in live.items()}
    if len(state) != len(live):
        raise AdapterError(
            f"the checkpoint cannot hold the adapters of this model: of {len(live)} weights only "
            f"{len(state)} get different names, because names in files leave out the name of the wrapping "
            "model. Adapt a part of the model with adapter.within"
        )
    config = _common_config(model)
    if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
        return
    save_id = secrets.token_hex(8)
    values = sum(value.numel() for value in state.values())
    _write(Path(folder), state, save_id, adapter_description(config, metadata, save_id, len(state), values))


def _write(folder: Path, state: dict[str, Tensor], save_id: str, text: str) -> None:
    header = {"format": "pt", "save_id": save_id, "description": text}
    replace_file(folder / WEIGHTS_FILE, lambda path: save_file(state, path, metadata=header))
    replace_file(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def adapter_description(
    config: AdapterConfig, metadata: Mapping[str, Any], save_id: str, tensors: int, parameters: int
) -> str:
    """Return the text of ``adapter.json``.

    Args:
        config: Config of the adapters.
        metadata: Other facts that the weights depend on.
        save_id: The random id of the save, which the file with the weights also contains.
        tensors: Number of tensors in that file.
        parameters: Number of values in these tensors.
    """
    description = {
        "format": _FORMAT,
        "save_id": save_id,
        "adapter": asdict(config),
        "metadata": dict(metadata),
        "tensors": tensors,
        "parameters": parameters,
    }
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def _read_description(folder: Path) -> dict[str, Any]:
    """Return the description of ``adapter.json``, or a newer one that the file with the weights contains."""
    description = _parsed_description(folder)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):  # reported when the weights are needed
        return description
    if header.get("save_id") != description["save_id"] and "description" in header:
        try:
            newer: dict[str, Any] = json.loads(header["description"])
        except ValueError as err:
            raise AdapterError(f"{folder / WEIGHTS_FILE}: its description is not valid JSON: {err}") from err
        return newer
    return description


def _parsed_description(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        inside = folder / "adapter"
        near = f"give {inside}" if (inside / CONFIG_FILE).is_file() else "give a folder of saved adapters"
        raise AdapterError(f"{folder} contains no {CONFIG_FILE}; {near}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise AdapterError(f"{path} is not valid JSON: {err}") from err
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        raise AdapterError(f"{path}: format is {found!r}; this version reads format {_FORMAT}")
    for key in ("save_id", "adapter", "metadata"):
        if key not in description:
            raise AdapterError(f"{path} has no key {key!r}; save_adapters did not write it or it was edited")
        if key != "save_id" and not isinstance(description[key], dict):
            raise AdapterError(f"{path}: {key} is {description[key]!r}; it must be an object with keys")
    return description


def rewrite_base(source: Path, folder: Path, base_model: str | None) -> dict[str, Any]:
    """Copy saved adapters to another folder, and change the name of the base model in the copy.

    Args:
        source: Folder that ``save_adapters`` wrote; connectors beside the adapters are copied too.
        folder: An existing folder, to which the copy is written.
        base_model: New name of the base model; ``None`` keeps the old one.

    Returns:
        The description in the new ``adapter.json``.

    Raises:
        AdapterError: If the files are absent, unreadable, or of two different saves.
    """
    weights, about = read_weights(source), _read_description(source)
    about["metadata"] = {**about["metadata"], "base_model": base_model or about["metadata"]["base_model"]}
    _write(folder, weights, about["save_id"], json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    for path in source.glob("*.safetensors"):
        if path.name != WEIGHTS_FILE:
            shutil.copyfile(path, folder / path.name)
    return about


def read_adapter_config(folder: Path | str) -> AdapterConfig:
    """Return the config of saved adapters, with which ``insert_adapters`` inserts the same adapters.

    Raises:
        AdapterError: If ``adapter.json`` is absent or unreadable, or has unknown keys or invalid values.
    """
    folder = Path(folder)
    values = _read_description(folder)["adapter"]
    try:
        # Older versions wrote the keys of all kinds into the folder.
        own = own_keys({"kind": None} | values)
        if unknown := sorted(set(values) - set(all_keys())):
            raise ValueError(f"adapter has unknown keys {', '.join(unknown)}; known: {', '.join(all_keys())}")
        return AdapterConfig(**own)
    except (TypeError, ValueError) as err:
        raise AdapterError(f"{folder / CONFIG_FILE}: {err}") from err


def read_adapter_metadata(folder: Path | str) -> dict[str, Any]:
    """Return the metadata that were saved with the adapters.

    Raises:
        AdapterError: If ``adapter.json`` is absent or unreadable.
    """
    metadata: dict[str, Any] = _read_description(Path(folder))["metadata"]
    return metadata


def load_adapters(
    model: nn.Module, folder: Path | str, *, expect: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Load saved adapters into a model in which the same adapters are inserted.

    Args:
        model: The model with its adapters.
        folder: Folder that ``save_adapters`` wrote.
        expect: Metadata that the saved adapters must have, such as the input geometry of the run. Nested
            mappings are compared key by key; other keys of the saved metadata are not compared.

    Returns:
        The saved metadata.

    Raises:
        AdapterError: If a file is absent or unreadable, settings in ``config.decisive`` differ, the metadata
            differ from ``expect``, the two files come from different saves, or the weights do not fit.
    """
    folder = Path(folder)
    description = _read_description(folder)
    config = read_adapter_config(folder)
    saved, own = asdict(config), asdict(_common_config(model))
    differences = [
        f"adapter.{key} is {saved[key]!r} in the checkpoint, {own.get(key)!r} in the model"
        for key in config.decisive
        if saved[key] != own.get(key)
    ]
    differences += _differences(description["metadata"], expect or {})
    if differences:
        raise AdapterError(f"the adapters in {folder} are not for this run: {'; '.join(differences)}")
    live = {portable_name(name): name for name, _ in _adapter_parameters(model)}
    state = read_weights(folder)
    # Older versions wrote the layer names of the loaded model.
    load_adapter_state_dict(model, {live.get(portable_name(k), k): value for k, value in state.items()})
    return dict(description["metadata"])


def _differences(saved: Mapping[str, Any], expect: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, wanted in expect.items():
        name = f"{prefix}{key}"
        if key not in saved:
            found.append(f"{name} is not recorded in the checkpoint, and is {wanted!r} in the run")
        elif isinstance(wanted, Mapping) and isinstance(saved[key], Mapping):
            found += _differences(saved[key], wanted, f"{name}.")
        elif saved[key] != json.loads(json.dumps(wanted)):  # a tuple is a list in JSON, and a key a string
            found.append(f"{name} is {saved[key]!r} in the checkpoint, {wanted!r} in the run")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the saved weights by their names in the file.

    Raises:
        AdapterError: If the files are absent or unreadable, or come from two different saves.
    """
    save_id = _read_description(folder)["save_id"]
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise AdapterError(f"{path} is missing beside {CONFIG_FILE}")
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("save_id")
            if found != save_id:
                raise AdapterError(
                    f"{path} comes from save {found!r}, but {CONFIG_FILE} in the same folder comes from "
                    f"save {save_id!r}. A save was interrupted, or files of two folders were mixed. Use "
                    "another checkpoint"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as err:
        raise AdapterError(f"{path} cannot be read, so it is damaged or incomplete: {err}") from err
