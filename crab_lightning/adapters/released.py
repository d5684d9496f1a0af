"""Converts the adapter weights that the authors of Crab+ released to this package's format, and back.

A released file is a flat ``torch.save`` dictionary without settings. The names in it are
``base_model.model.<layer>.lora_route.weight``, ``.lora_A.weight`` and ``.lora_B0.weight`` to
``.lora_B2.weight``, with the layer names that the thinker had before transformers 5. Every q, k, v, o, gate,
up and down projection of these names is adapted, also in the encoders. The router reads the layer's input.
"""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crab_lightning.adapters.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterError,
    adapter_description,
    read_adapter_config,
    read_weights,
)
from crab_lightning.adapters.config import LANGUAGE_MODEL_PROJECTIONS, AdapterConfig
from crab_lightning.adapters.figures import LayerFigures, layer_figures
from crab_lightning.adapters.kinds.ilora import ILoRAConfig
from crab_lightning.adapters.names import portable_name
from crab_lightning.adapters.released_table import (
    PREFIX,
    RELEASED_HEADS,
    RELEASED_RANK,
    SUFFIX,
    ThinkerSizes,
    released_table,
)
from crab_lightning.files import replace_file
from crab_lightning.tensor_files import TensorFileError, listing, misfits, read_tensors

RELEASED_ALPHA, RELEASED_DROPOUT = 256.0, 0.1
_WRAPPERS = ("module.", "thinker.")


def open_released(path: Path | str) -> dict[str, Tensor]:
    """Open a file of tensors by name, without a check of names and shapes; they stay on disk until used.

    Raises:
        FileNotFoundError: If the file does not exist.
        AdapterError: If the file cannot be read safely, or does not hold a flat dictionary of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}; give the released finetune_weights.bin")
    try:
        # Only files in the zip format can stay on disk; older files are read whole.
        state = read_tensors(path, mmap=zipfile.is_zipfile(path))
    except TensorFileError as err:
        raise AdapterError(f"{path} is not a file of weights that torch can read safely: {err}") from err
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AdapterError(f"{path} is a {type(state).__name__}, not a flat dictionary of tensors by name")
    return state


def check_released(
    state: Mapping[str, Tensor], table: Mapping[str, tuple[int, int]], path: Path | str = "the file"
) -> dict[str, Tensor]:
    """Return the weights under the names of the table and in its order.

    Args:
        state: Weights by name; the names may have prefixes of wrappers.
        table: Names and shapes that the weights must have.
        path: The file, for the error message.

    Raises:
        AdapterError: If a name is missing, unknown or occurs twice, or a shape or type is wrong.
    """
    found: dict[str, Tensor] = {}
    twice: list[str] = []
    for name, value in state.items():
        plain = _unwrapped(name)
        twice += [plain] if plain in found else []
        found[plain] = value
    types = [f"{n}: {v.dtype}" for n, v in found.items() if n in table and not v.is_floating_point()]
    problems = [
        misfits(found, table),
        listing("occur twice", twice),
        listing("not of a floating-point type", types),
    ]
    if any(problems):
        raise AdapterError(
            f"{path} does not contain the {len(table)} weights of this base model: "
            + "; ".join(filter(None, problems))
            + ". Give the rank and heads of its training, and --base if its base model is not "
            "Qwen2.5-Omni-7B"
        )
    return {name: found[name] for name in table}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def join_heads(
    state: Mapping[str, Tensor], layers: Iterable[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield released weights under this package's names, with the B matrices of a layer joined into one.

    Args:
        state: Weights under the released names.
        layers: Names of the layers to yield; all layers when left out.

    Yields:
        Name and weight.
    """
    for layer in _by_layer(state) if layers is None else layers:
        yield from _joined(state, layer).items()


def split_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the released names; the inverse of ``join_heads``. B matrices are views."""
    found: dict[str, Tensor] = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in state):
        a, b = state[f"{layer}.lora_A"], state[f"{layer}.lora_B"]
        named = {"lora_route": state[f"{layer}.lora_route"], "lora_A": a}
        named |= {f"lora_B{i}": head for i, head in enumerate(torch.split(b, a.shape[0], dim=1))}
        found |= {f"{PREFIX}{layer}.{part}{SUFFIX}": value for part, value in named.items()}
    return found


def _by_layer(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of heads by layer."""
    heads: dict[str, int] = {}
    for name in state:
        layer = _layer(name)
        heads[layer] = heads.get(layer, 0) + (".lora_B" in name)
    return heads


def _layer(name: str) -> str:
    return name.removeprefix(PREFIX).removesuffix(SUFFIX).rpartition(".")[0]


def _joined(state: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    stem = f"{PREFIX}{layer}"
    heads: list[Tensor] = []
    while (b := state.get(f"{stem}.lora_B{len(heads)}{SUFFIX}")) is not None:
        heads.append(b)
    return {
        f"{layer}.lora_A": state[f"{stem}.lora_A{SUFFIX}"],
        f"{layer}.lora_B": torch.cat(heads, dim=1),
        f"{layer}.lora_route": state[f"{stem}.lora_route{SUFFIX}"],
    }


def released_figures(state: Mapping[str, Tensor]) -> tuple[LayerFigures, ...]:
    """Return the figures of every layer of a released file; the file need not have all layers.

    Raises:
        AdapterError: If names are not of the released form, or a layer has no A, no B or no router.
    """
    plain = {_unwrapped(name): value for name, value in state.items()}
    if odd := [n for n in plain if not (n.startswith(PREFIX) and ".lora_" in n and n.endswith(SUFFIX))]:
        raise AdapterError(f"{listing('names are not of the released form', odd)}")
    found: list[LayerFigures] = []
    for layer, heads in _by_layer(plain).items():
        parts = [f"{PREFIX}{layer}.{part}{SUFFIX}" for part in ("lora_A", "lora_route")]
        if not heads or any(part not in plain for part in parts):
            raise AdapterError(f"{layer} lacks A, B or router; the file is incomplete or of another kind")
        found.append(layer_figures(layer, _joined(plain, layer)))
    return tuple(found)


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Args:
        config: Config of the adapters.
        figures: Figures of each layer of the file.
        kept: Names of the layers that were written.
        tensors: Number of weights that were written.
        parameters: Number of values in these weights.
    """

    config: AdapterConfig
    figures: tuple[LayerFigures, ...]
    kept: tuple[str, ...]
    tensors: int
    parameters: int


def convert_released(
    source: Path | str,
    folder: Path | str,
    *,
    sizes: ThinkerSizes | None = None,
    rank: int = RELEASED_RANK,
    heads: int = RELEASED_HEADS,
    alpha: float = RELEASED_ALPHA,
    base_model: str = "Qwen/Qwen2.5-Omni-7B",
    drop_zero: bool = False,
) -> Conversion:
    """Write released weights as an adapter folder, which ``load_adapters`` and ``model.load_adapter`` read.

    Only one layer is in memory at a time.

    Args:
        source: The released file.
        folder: Folder to write; it is made if it does not exist.
        sizes: Sizes of the base model; Qwen2.5-Omni-7B's when left out.
        rank: Rank of the adapters in the file.
        heads: Number of B matrices of a layer in the file.
        alpha: Alpha of the adapters, which the file does not contain. The released run has 256, so the update
            is scaled by 2.
        base_model: Name of the base model, stored beside the weights.
        drop_zero: Leave out layers whose B matrices are all zero; they change nothing.

    Raises:
        FileNotFoundError: If the file does not exist.
        FileExistsError: If the folder already holds adapters.
        AdapterError: If the file cannot be read, does not have the weights that the sizes require, holds
            values that are not finite, or has only zero layers and ``drop_zero`` is set.
    """
    folder = Path(folder)
    if (folder / CONFIG_FILE).exists() or (folder / WEIGHTS_FILE).exists():
        raise FileExistsError(f"{folder} already contains adapters; give another folder or remove them first")
    state = check_released(open_released(source), released_table(sizes, rank, heads), source)
    layers = list(_by_layer(state))
    figures = tuple(layer_figures(layer, _joined(state, layer)) for layer in layers)
    if broken := [f.name for f in figures if not f.finite]:
        raise AdapterError(f"{source}: {listing('layers with values that are not finite', broken)}")
    kept = [f.name for f in figures if not (drop_zero and f.dead)]
    if not kept:
        raise AdapterError(f"{source}: every B matrix is zero, so dropping zero layers leaves no layer")
    bfloat16 = all(value.dtype is torch.bfloat16 for value in state.values())
    config = ILoRAConfig(
        rank=rank,
        alpha=alpha,
        dropout=RELEASED_DROPOUT,
        heads=heads,
        router="input",
        dtype="bfloat16" if bfloat16 else "float32",
        **_targets(kept, layers),
    )
    shapes: dict[str, tuple[int, ...]] = {}
    of_layers = (sizes or ThinkerSizes()).layers()
    for layer in kept:
        inputs, outputs = of_layers[layer]
        shapes[f"{layer}.lora_A"] = (rank, inputs)
        shapes[f"{layer}.lora_B"] = (outputs, heads * rank)
        shapes[f"{layer}.lora_route"] = (heads, inputs)
    values = (value for _, value in join_heads(state, kept))
    save_id = secrets.token_hex(8)
    metadata: dict[str, Any] = {
        "base_model": base_model,
        "geometry": "released",
        "paradigm": "native",
        "source": Path(source).name,
    }
    parameters = sum(prod(shape) for shape in shapes.values())
    text = adapter_description(config, metadata, save_id, len(shapes), parameters)
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": "pt", "save_id": save_id}
    dtype = getattr(torch, config.dtype)
    replace_file(folder / WEIGHTS_FILE, lambda path: write_safetensors(path, shapes, dtype, values, header))
    replace_file(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return Conversion(config, figures, tuple(kept), len(shapes), parameters)


def _targets(kept: list[str], layers: list[str]) -> dict[str, Any]:
    """Return the shortest ``target_modules`` and ``within`` that adapt exactly the kept layers."""
    language = [name for name in layers if name.startswith("model.")]
    if kept == layers:
        return {"target_modules": list(LANGUAGE_MODEL_PROJECTIONS), "within": None}
    if kept == language:
        return {"target_modules": list(LANGUAGE_MODEL_PROJECTIONS), "within": "language_model"}
    return {"target_modules": kept, "within": None}


def export_released(
    folder: Path | str, path: Path | str, *, sizes: ThinkerSizes | None = None
) -> tuple[ILoRAConfig, list[str]]:
    """Write an adapter folder as a file in the released format; all weights are in memory at once.

    A layer that the folder does not contain is written as zeros, so it changes nothing, as before.

    Args:
        folder: Folder with the adapters.
        path: File to write; it must not exist.
        sizes: Sizes of the base model; Qwen2.5-Omni-7B's when left out.

    Returns:
        The config, which the file cannot hold, and the names of the layers written as zeros.

    Raises:
        FileExistsError: If the file exists.
        AdapterError: If the folder cannot be read, the adapters are not I-LoRA with an ``input`` router, or
            they belong to another base model.
    """
    folder, path = Path(folder), Path(path)
    if path.exists():
        raise FileExistsError(f"{path} already exists; give another file or remove it first")
    config = read_adapter_config(folder)
    if not isinstance(config, ILoRAConfig) or config.router != "input":
        router = config.details().get("router")
        raise AdapterError(
            f"{folder} contains {config.kind} adapters with router {router!r}; a released file can contain"
            f" only I-LoRA whose router reads the layer's input"
        )
    table = released_table(sizes, config.rank, config.heads)
    state = {portable_name(name): value for name, value in read_weights(folder).items()}
    written = {name.rpartition(".")[0] for name in state}
    if cut := sorted(
        {f"{w}.{p}" for w in written for p in ("lora_A", "lora_B", "lora_route")} - state.keys()
    ):
        raise AdapterError(f"{folder}: {listing('weights missing', cut)}; convert or save it again")
    released = split_heads(state)
    empty = [layer for layer in (sizes or ThinkerSizes()).layers() if layer not in written]
    dtype = getattr(torch, config.dtype)
    for name, shape in table.items():
        if name not in released and _layer(name) in empty:
            released[name] = torch.zeros(shape, dtype=dtype)
    released = check_released(released, table, folder)
    # torch.save would write the whole storage behind every view, so each view is copied.
    released = {name: value.clone() for name, value in released.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: torch.save(released, temporary))
    return config, empty


_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    values: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors of one type, one after the other; ``safetensors`` needs all of them in memory at once.

    Args:
        path: File to write.
        shapes: Name -> shape, in the order of ``values``.
        dtype: Type to which all values are cast.
        values: The tensors; each is written before the next is taken.
        metadata: Text entries for the header of the file.

    Raises:
        ValueError: If a tensor has another shape than in ``shapes``, or the number of tensors differs.

    Source: https://huggingface.co/docs/safetensors, section Format.
    """
    head: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape) * dtype.itemsize
        head[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for (name, shape), value in zip(shapes.items(), values, strict=True):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, but the announced shape is {shape}")
            file.write(value.to(dtype).contiguous().view(torch.uint8).numpy().data)
