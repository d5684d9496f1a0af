"""Write a safetensors file one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    values: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors of one type; ``safetensors`` itself wants all of them in memory together.

    Args:
        path: File to write.
        shapes: By name, in the order of ``values``.
        dtype: Values are cast to it.
        values: The tensors; each is let go before the next is asked for.
        metadata: Stored in the file's head.

    Raises:
        ValueError: If a tensor has another shape than announced, or their number differs.

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
                raise ValueError(f"{name} has shape {tuple(value.shape)}, announced was {shape}")
            file.write(value.to(dtype).contiguous().view(torch.uint8).numpy().data)
