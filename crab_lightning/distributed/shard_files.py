"""Reads a base model in parts: it is built without storage and sharded, and each process reads its part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from crab_lightning.adapters.names import unwrapped_name
from crab_lightning.distributed.local_shards import copy_share

_LEFT_ON_DISK = ("talker.", "token2wav.", "code2wav.")


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Make modules that are built in this context have parameters without storage; buffers have values.

    (With ``torch.device("meta")``, buffers such as rotary frequencies would have no values, and checkpoints
    do not contain them.)
    """
    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        original(module, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


def fill_shards(
    model: nn.Module, pretrained: str, device: torch.device, part: nn.Module | None = None
) -> None:
    """Read this process's part of every weight that has no storage yet.

    Args:
        model: A thinker with its adapters.
        pretrained: Folder or hub name of the thinker's checkpoint, in safetensors.
        device: Device of the weights.
        part: The part of the thinker to fill; all of it when left out. With FSDP1 a part is filled before it
            is sharded, and with FSDP2 after.

    Raises:
        ValueError: If weights are missing or have another shape, or there is no safetensors file.
    """
    part = model if part is None else part
    inside = {id(p) for p in part.parameters()}
    empty = {name for name, p in model.named_parameters() if p.is_meta and id(p) in inside}
    part._apply(  # type: ignore[no-untyped-call]
        lambda t: torch.empty_like(t, device=device) if t.is_meta else t
    )
    wanted: dict[str, nn.Parameter] = {
        plain_name(name): parameter for name, parameter in model.named_parameters() if name in empty
    }
    if len(wanted) != len(empty):
        raise ValueError(
            f"{pretrained}: the {len(empty)} weights of the model have only {len(wanted)} different names in "
            "the checkpoint, so they cannot be read in parts. Use trainer.strategy ddp"
        )
    blocks = {name: block for key, weight in wanted.items() for name, block in _expert_blocks(key, weight)}
    for file in _files(pretrained):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a mapping
                if name.startswith(_LEFT_ON_DISK):
                    continue
                plain, where = plain_name(name), f"{file}: {name}"
                if plain in wanted:
                    _fill(wanted.pop(plain), stored.get_slice(name), where)
                elif plain in blocks:
                    whole, corner, shape = blocks.pop(plain)
                    _fill(wanted[whole], stored.get_slice(name), where, corner, shape)
    # Experts that a file has one by one, not as one tensor, are complete when no block is left.
    in_blocks = {whole for whole, _, _ in blocks.values()}
    for name in [name for name in wanted if _EXPERTS.fullmatch(name) and name not in in_blocks]:
        del wanted[name]
    if wanted:
        raise ValueError(
            f"{pretrained}: weights of the thinker are missing: {len(wanted)} (first: {sorted(wanted)[:1]}). "
            "They would keep random values. Use a complete Omni checkpoint in safetensors"
        )


def plain_name(name: str) -> str:
    """Return a name of a weight that is the same on disk and in memory, for all transformers versions.

    >>> plain_name("thinker.model.layers.0.self_attn.q_proj.weight")
    'layers.0.self_attn.q_proj.weight'
    >>> plain_name("model.language_model.layers.0.self_attn.q_proj.base.weight")
    'layers.0.self_attn.q_proj.weight'
    >>> plain_name("model.layers.0.mlp.experts.gate_up_proj.base.weight")
    'layers.0.mlp.experts.gate_up_proj'
    """
    name = unwrapped_name(name)
    for prefix in ("thinker.", "model.", "language_model."):
        name = name.removeprefix(prefix)
    return _ADAPTED_EXPERTS.sub(r"\1", name.replace(".base.", "."))


Block = tuple[str, tuple[int, int, int], list[int]]
"""Name of the weight that contains a block, index of the block's first value in it, and the block's shape."""

_ADAPTED_EXPERTS = re.compile(r"(\bexperts\.(gate_up_proj|down_proj))\.weight$")  # not of one expert
_EXPERTS = re.compile(r"(.*\bexperts)\.(gate_up_proj|down_proj)")


def _expert_blocks(name: str, weight: Tensor) -> Iterator[tuple[str, Block]]:
    """Yield the names on disk, and the blocks, of which the weight of all experts of a layer consists.

    In memory the experts of a layer are ``gate_up_proj (E, 2F, D)`` and ``down_proj (E, D, F)``. Published
    files have ``gate_proj.weight``, ``up_proj.weight`` and ``down_proj.weight`` for each expert.
    """
    match = _EXPERTS.fullmatch(name)
    if match is None:
        return
    count, rows, columns = weight.shape
    parts = ["down_proj"] if match[2] == "down_proj" else ["gate_proj", "up_proj"]
    each = rows // len(parts)
    for expert in range(count):
        for place, part in enumerate(parts):
            block = (name, (expert, place * each, 0), [each, columns])
            yield f"{match[1]}.{expert}.{part}.weight", block


def _fill(
    parameter: Tensor,
    stored: Any,
    where: str,
    corner: tuple[int, int, int] | None = None,
    shape: list[int] | None = None,
) -> None:
    wanted = list(parameter.shape) if shape is None else shape
    if wanted != stored.get_shape():
        raise ValueError(f"{where} has the shape {stored.get_shape()}, but the model has {wanted}")
    copy_share(parameter, stored, corner)


def _files(pretrained: str) -> list[Path]:
    folder = Path(pretrained)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(pretrained, allow_patterns=["*.safetensors", "*.json"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{pretrained} has no .safetensors file, and sharded loading reads no other format. Save the "
            "checkpoint again with save_pretrained, or use trainer.strategy ddp"
        )
    return files
