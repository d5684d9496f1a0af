"""Adapter weights on disk: ``adapter.safetensors`` beside a readable ``adapter.json``."""

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
    """An adapter checkpoint that does not fit the model or the run, or cannot be read."""


def _adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for module_name, module in adapter_layers(model).items():
        for name, parameter in module.named_parameters(recurse=False):
            yield unwrapped_name(f"{module_name}.{name}") if module_name else name, parameter


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' weights by dotted name, detached.

    Sharded weights are gathered, so every rank has to call this.

    Raises:
        AdapterError: If the model has no adapters.
    """
    state = {
        name: p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()
        for name, p in _adapter_parameters(model)
    }
    if not state:
        raise AdapterError(f"{type(model).__name__} has no adapters; call insert_adapters first")
    return state


def load_adapter_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into the model's adapters; nothing is copied unless all of them fit.

    Args:
        model: Has the adapters that the weights belong to.
        state: As returned by ``adapter_state_dict``; values are cast to the layers' type.

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
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = state[name]
            if isinstance(parameter, DTensor):
                value = value.to(parameter.device, parameter.dtype)
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.copy_(value)


def _common_config(model: nn.Module) -> AdapterConfig:
    configs: list[AdapterConfig] = []
    for layer in adapter_layers(model).values():
        if layer.config not in configs:
            configs.append(layer.config)
    if len(configs) != 1:
        raise AdapterError(
            f"the model's adapters have {len(configs)} different configurations; one can be saved"
        )
    return configs[0]


def save_adapters(model: nn.Module, folder: Path | str, metadata: Mapping[str, Any]) -> None:
    """Write the adapters to ``adapter.safetensors`` and a description of them to ``adapter.json``.

    Layers have the names that published files use, which every version of transformers can be mapped to.
    Each file is complete or absent: it is written under another name, flushed to disk and renamed. Both
    carry one random id, so that two files of different saves are not read as one. The weights' file holds the
    description too: a save that is killed between the two files is a whole one. In a distributed run every
    rank calls this and rank 0 writes.

    Args:
        model: Has adapters of one configuration.
        folder: Made when absent.
        metadata: What the weights depend on besides the adapters: base model id, input geometry. Must be
            writable as JSON.

    Raises:
        AdapterError: If the model has no adapters, or several configurations.
    """
    live = adapter_state_dict(model)
    state = {portable_name(name): value.cpu().contiguous() for name, value in live.items()}
    if len(state) != len(live):
        raise AdapterError(
            "two adapted layers get the same name in the checkpoint, because names do not"
            " depend on the model's architecture"
        )
    config = _common_config(model)
    if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
        return
    save_id = secrets.token_hex(8)
    values = sum(value.numel() for value in state.values())
    text = adapter_description(config, metadata, save_id, len(state), values)
    folder = Path(folder)
    header = {"format": "pt", "save_id": save_id, "description": text}
    replace_file(folder / WEIGHTS_FILE, lambda path: save_file(state, path, metadata=header))
    replace_file(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def adapter_description(
    config: AdapterConfig, metadata: Mapping[str, Any], save_id: str, tensors: int, parameters: int
) -> str:
    """Return the text of ``adapter.json``."""
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
    """Return what ``adapter.json`` says; after a save that was killed before it, what the weights say."""
    description = _parsed_description(folder)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):  # said where the weights are needed
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
        raise AdapterError(f"{folder} contains no {CONFIG_FILE}; give the folder that save_adapters wrote")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise AdapterError(f"{path} is not valid JSON: {err}") from err
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        raise AdapterError(f"{path}: format is {found!r}; this version reads format {_FORMAT}")
    for key in ("save_id", "adapter", "metadata"):
        if key not in description:
            raise AdapterError(
                f"{path} has no key {key!r}; it was not written by save_adapters or was edited"
            )
        if key != "save_id" and not isinstance(description[key], dict):
            raise AdapterError(f"{path}: {key} is {description[key]!r}; it must be an object with keys")
    return description


def rewrite_base(source: Path, folder: Path, base_model: str | None) -> dict[str, Any]:
    """Copy saved adapters to another folder, with another name of the base weights.

    Args:
        source: As written by ``save_adapters``; connectors beside the adapters are copied too.
        folder: Folder that is there.
        base_model: The name; ``None`` keeps it.

    Returns:
        What ``adapter.json`` says.

    Raises:
        AdapterError: If the files are absent, unreadable, or of two different saves.
    """
    weights, about = read_weights(source), _read_description(source)
    about["metadata"] = {**about["metadata"], "base_model": base_model or about["metadata"]["base_model"]}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    header = {"format": "pt", "save_id": about["save_id"], "description": text}
    save_file(weights, folder / WEIGHTS_FILE, metadata=header)  # it holds the description too
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    for path in source.glob("*.safetensors"):
        if path.name != WEIGHTS_FILE:
            shutil.copyfile(path, folder / path.name)
    return about


def read_adapter_config(folder: Path | str) -> AdapterConfig:
    """Return the configuration of saved adapters, to insert the same ones.

    Raises:
        AdapterError: If ``adapter.json`` is absent, unreadable, or names unknown settings.
    """
    folder = Path(folder)
    values = _read_description(folder)["adapter"]
    try:
        # Folders written before each kind had its own keys hold those of all kinds.
        own = own_keys({"kind": None} | values)
        if unknown := sorted(set(values) - set(all_keys())):
            raise ValueError(f"adapter has unknown keys {', '.join(unknown)}; known: {', '.join(all_keys())}")
        return AdapterConfig(**own)
    except (TypeError, ValueError) as err:
        raise AdapterError(f"{folder / CONFIG_FILE}: {err}") from err


def read_adapter_metadata(folder: Path | str) -> dict[str, Any]:
    """Return the metadata that adapters were saved with.

    Raises:
        AdapterError: If ``adapter.json`` is absent or unreadable.
    """
    metadata: dict[str, Any] = _read_description(Path(folder))["metadata"]
    return metadata


def load_adapters(
    model: nn.Module, folder: Path | str, *, expect: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Load saved adapters into a model that has the same adapters inserted.

    Args:
        model: The model.
        folder: As written by ``save_adapters``.
        expect: Metadata that the run relies on, such as its input geometry; nested mappings are compared
            key by key. Keys that are not expected are not compared.

    Returns:
        The saved metadata.

    Raises:
        AdapterError: If decisive settings of the kind differ, the metadata differ from ``expect``,
            the two files are of different saves, or the weights do not fit.
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
    # Folders written before names were made portable hold the live ones.
    load_adapter_state_dict(model, {live.get(portable_name(k), k): value for k, value in state.items()})
    return dict(description["metadata"])


def _differences(saved: Mapping[str, Any], expect: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, wanted in expect.items():
        name = f"{prefix}{key}"
        if key not in saved:
            found.append(f"{name} is not recorded in the checkpoint, the run has {wanted!r}")
        elif isinstance(wanted, Mapping) and isinstance(saved[key], Mapping):
            found += _differences(saved[key], wanted, f"{name}.")
        elif saved[key] != _as_json(wanted):
            found.append(f"{name} is {saved[key]!r} in the checkpoint, {wanted!r} in the run")
    return found


def _as_json(value: Any) -> Any:
    # A tuple comes back from JSON as a list, and keys come back as strings.
    return json.loads(json.dumps(value))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return saved weights by the names they have in the file.

    Raises:
        AdapterError: If the files are absent, unreadable, or of two different saves.
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
                    f"save {save_id!r}; a save was interrupted or files were mixed: use another "
                    "checkpoint"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as err:
        raise AdapterError(f"{path} cannot be read, so it is damaged or incomplete: {err}") from err
