"""BEATs as an audio encoder, and functions that load and save the weights of BEATs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crab_lightning.encoders.base import AudioEncoder
from crab_lightning.encoders.beats import SHORTEST_SAMPLES, Beats, BeatsConfig, beats_fbank, beats_tokens
from crab_lightning.tensor_files import TensorFileError, misfits, read_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_TYPE = "beats"
_BIAS = "self_attn.relative_attention_bias.weight"
_HEAD = ("predictor.weight", "predictor.bias")


class BeatsFileError(ValueError):
    """A file or folder does not hold a valid BEATs encoder."""


def load_beats(path: Path | str) -> Beats:
    """Load a BEATs encoder.

    Args:
        path: A published checkpoint (``BEATs_iter3_plus_AS2M.pt``), or a folder that ``save_beats`` wrote.

    Returns:
        The encoder, float32, in evaluation mode.

    Raises:
        FileNotFoundError: If the file does not exist, or the folder lacks a file.
        BeatsFileError: If it is not a BEATs checkpoint, or a weight is missing, unknown or of another shape.
    """
    path = Path(path)
    if path.is_dir():
        cfg, state = _read_folder(path)
    elif path.is_file():
        cfg, state = _read_published(path)
    else:
        raise FileNotFoundError(
            f"there is no BEATs encoder at {path}; give BEATs_iter3_plus_AS2M.pt or a folder that save_beats "
            "wrote"
        )
    try:
        config = BeatsConfig.from_cfg(cfg)
    except ValueError as err:
        raise BeatsFileError(f"{path}: {err}") from err
    with torch.device("meta"):
        model = Beats(config)
    if problems := misfits(state, {name: value.shape for name, value in model.state_dict().items()}):
        raise BeatsFileError(
            f"the weights in {path} do not fit the cfg in the same file or folder; of the weights, {problems}"
        )
    model.load_state_dict({n: v.to(torch.float32) for n, v in state.items()}, strict=True, assign=True)
    return model.eval()


def save_beats(model: Beats, folder: Path | str) -> Path:
    """Write an encoder to ``config.json`` and ``model.safetensors`` in a folder, and return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"model_type": MODEL_TYPE} | model.config.cfg(), indent=2)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} contains no {name}; it is not a BEATs folder")
    try:
        cfg = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS_FILE)
    except (ValueError, SafetensorError) as err:
        raise BeatsFileError(f"{folder} cannot be read: {err}") from err
    if not isinstance(cfg, dict) or cfg.get("model_type") != MODEL_TYPE:
        raise BeatsFileError(f"{folder / CONFIG_FILE} does not say model_type {MODEL_TYPE!r}")
    return cfg, state


def _read_published(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = read_tensors(path)
    except TensorFileError as err:
        raise BeatsFileError(str(err)) from err
    if not isinstance(content, dict) or not {"cfg", "model"} <= content.keys():
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise BeatsFileError(f"{path}: a BEATs checkpoint contains 'cfg' and 'model', found {found[:200]}")
    if not isinstance(content["cfg"], Mapping) or not isinstance(content["model"], Mapping):
        raise BeatsFileError(f"{path}: 'cfg' and 'model' of a BEATs checkpoint are dictionaries")
    # The classifier of fine-tuned checkpoints is dropped. Any other unknown weight is an error later.
    state = {name: value for name, value in content["model"].items() if name not in _HEAD}
    return dict(content["cfg"]), _one_bias_table(path, state)


def _one_bias_table(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with only the first layer's table, after a check that all tables are equal."""
    tables = {name: value for name, value in state.items() if name.endswith(f".{_BIAS}")}
    first = f"encoder.layers.0.{_BIAS}"
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}
    expected = {f"encoder.layers.{i}.{_BIAS}" for i in layers}
    if absent := sorted(expected - tables.keys()):
        raise BeatsFileError(f"{path}: {len(absent)} weights are missing (first: {absent[:1]})")
    if other := [name for name, value in tables.items() if not torch.equal(value, tables[first])]:
        raise BeatsFileError(f"{path}: {other[0]} differs from {first}; all BEATs layers use one table")
    return {name: value for name, value in state.items() if name not in tables or name == first}


class BeatsAudio(AudioEncoder):
    """The last layer of BEATs: about 50 features a second, 8 (one per frequency band) for each 160 ms.

    LLM+V+A encodes each second separately, as in the paper.

    Args:
        pretrained: Published BEATs checkpoint (``BEATs_iter3_plus_AS2M.pt``), or a folder in safetensors.
    """

    alone_s: ClassVar[int | None] = 1
    shortest_samples: ClassVar[int] = SHORTEST_SAMPLES

    @property
    def tokens_per_s(self) -> float:
        """Number of features of a second in a long clip; a second that is encoded separately has 48."""
        return 50.0

    @property
    def config(self) -> BeatsConfig:
        """Sizes from the folder's config.json. A ``.pt`` file is not opened: it gets the published sizes."""
        file = Path(self.pretrained) / CONFIG_FILE
        return (
            BeatsConfig.from_cfg(json.loads(file.read_text(encoding="utf-8")))
            if file.is_file()
            else BeatsConfig()
        )

    @property
    def ffn(self) -> int:
        """Width inside the feed-forward layers."""
        return self.config.encoder_ffn_embed_dim

    def build(self) -> nn.Module:
        """Return BEATs with random weights."""
        return Beats(self.config)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return BEATs with the checkpoint's weights."""
        return load_beats(self.pretrained).to(dtype)

    def width(self, tower: Any) -> int:
        """Return the width of the features."""
        return int(tower.config.encoder_embed_dim)

    def prepare(self, audio: Tensor) -> Tensor:
        """Return the filter bank ``(M, 128)``."""
        return beats_fbank(audio)

    def tokens(self, steps: int) -> int:
        """Return the number of features of ``steps`` frames of the filter bank."""
        return beats_tokens(steps)

    def features(self, tower: Any, sounds: Tensor, steps: Tensor) -> Tensor:
        """Return the features, ``(G, N, E)``."""
        states: Tensor = tower(sounds, steps)[0]
        return states
