"""Connector weights on disk: one safetensors file that says itself what it fits."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from crab_lightning.adapters.names import unwrapped_name
from crab_lightning.files import replace_file
from crab_lightning.models.connectors import Connector
from crab_lightning.tensor_files import misfits

_FORMAT = "crab_lightning.connector/1"
PUBLISHED_ENCODERS = {"visual": "ClipVision", "audio": "BeatsAudio"}
"""Encoders of the paper, which files that name none belong to."""


class ConnectorFileError(ValueError):
    """A file that holds no connector, or another one than the model's."""


def connector_state(connector: Connector) -> dict[str, Tensor]:
    """Return a connector's weights on the CPU; sharded ones are gathered, so every rank has to call this."""
    state = {unwrapped_name(name): weight for name, weight in connector.named_parameters()}
    return {
        name: (v.full_tensor() if isinstance(v, DTensor) else v).detach().cpu().contiguous()
        for name, v in state.items()
    }


def save_connector(state: dict[str, Tensor], connector: Connector, modality: str, path: Path) -> None:
    """Write a connector.

    Args:
        state: Its weights, as ``connector_state`` returns them.
        connector: Gives the sizes that are written beside them.
        modality: ``visual`` or ``audio``.
        path: File to write; complete or absent, never half.
    """
    header = {"format": _FORMAT, "connector": json.dumps(_identity(connector, modality))}
    replace_file(path, lambda temporary: save_file(state, temporary, metadata=header))


def load_connector(connector: Connector, modality: str, path: Path, key: str) -> None:
    """Load a connector in place.

    Args:
        connector: Is given the weights.
        modality: ``visual`` or ``audio``.
        path: As written by ``save_connector``.
        key: Config key that named the file, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ConnectorFileError: If it is of another kind or size, or its weights are not exactly the connector's.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{key} is {path}, which does not exist. Train the connector first (stage 1), or name the "
            "connector file of a stage 1 run"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as err:
        raise ConnectorFileError(f"{key}: {path} cannot be read: {err}") from err
    if header.get("format") != _FORMAT:
        raise ConnectorFileError(
            f"{key}: {path} is no connector file: its format is {header.get('format')!r}"
        )
    found, own = json.loads(header["connector"]), _identity(connector, modality)
    found.setdefault("encoder", PUBLISHED_ENCODERS[modality])
    if other := [f"{k} is {found.get(k)!r}, the model has {own[k]!r}" for k in own if found.get(k) != own[k]]:
        raise ConnectorFileError(
            f"{key}: {path} is not this model's {modality} connector: {'; '.join(other)}"
        )
    wanted = connector.state_dict()
    if problems := misfits(state, {name: weight.shape for name, weight in wanted.items()}):
        raise ConnectorFileError(f"{key}: {path} does not fit; of its weights, {problems}")
    with torch.no_grad():
        for name, own_value in wanted.items():
            value: Any = state[name].to(own_value.device, own_value.dtype)
            if isinstance(own_value, DTensor):
                value = distribute_tensor(value, own_value.device_mesh, own_value.placements)
            own_value.copy_(value)


def _identity(connector: Connector, modality: str) -> dict[str, Any]:
    sizes = {k: v for k, v in asdict(connector.config).items() if k != "dropout"}  # acts in training only
    if connector.config.kind == "qformer":
        del sizes["window_tokens"]
    encoder = connector.encoder or PUBLISHED_ENCODERS[modality]
    widths = {"encoder_width": connector.encoder_width, "width": connector.width}
    return {"modality": modality, "encoder": encoder} | widths | sizes
