"""Files of tensors that torch has written, read so that they cannot run code."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# What torch says about a file that asks for more than tensors and plain values.
_ASKS_FOR = re.compile(r"GLOBAL (\S+\.\S+) |unrecognized function (\S+)")
# What torch writes itself; anything else that a pickle names is no tensor.
_OWN = ("torch.", "collections.OrderedDict", "_codecs.encode")
_PICKLE_BYTES = 2**24


class TensorFileError(ValueError):
    """A file is no file of tensors, or it is damaged."""


class UnsafeTensorFile(TensorFileError):
    """A file asks for a function or a class when it is read, which could do anything."""


def read_tensors(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> Any:
    """Read a file of tensors and plain values.

    Args:
        path: An existing file.
        map_location: Device of the tensors.
        mmap: Leave the tensors in the file until they are used.

    Raises:
        UnsafeTensorFile: If the file asks for anything but tensors and plain values. Nothing of it is run.
        TensorFileError: If it cannot be read.
        OSError: If the file system does not give it.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as err:  # torch raises many types about bytes that it did not write
        name = _asked_for(str(err), path)
        if name is not None:
            raise UnsafeTensorFile(
                f"{path} is refused: reading it would load {name}, which is neither a tensor nor a "
                "simple value and could run any code. No code was run. Use a file from a source that "
                "you trust, which contains only tensors"
            ) from err
        raise TensorFileError(f"{path} cannot be read as tensors ({reason(err)})") from err


def listing(what: str, names: Sequence[str]) -> str:
    """Return how many there are and the first of them; an empty string when there are none."""
    if not names:
        return ""
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{rest}"


def misfits(saved: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> str:
    """Say which weights of a file do not fit a model; empty where all do.

    Args:
        saved: Weights by name.
        wanted: Shape of each weight of the model.
    """
    shapes = [
        f"{name}: {tuple(saved[name].shape)}, must be {tuple(wanted[name])}"
        for name in sorted(wanted.keys() & saved.keys())
        if tuple(saved[name].shape) != tuple(wanted[name])
    ]
    kinds = {"missing": sorted(wanted.keys() - saved.keys()), "unknown": sorted(saved.keys() - wanted.keys())}
    return "; ".join(
        listing(kind, names) for kind, names in (kinds | {"of another shape": shapes}).items() if names
    )


def reason(err: BaseException) -> str:
    """Return the first line of a message; torch's go on with advice and a stack trace."""
    lines = str(err).strip().splitlines()
    first = lines[0] if lines else type(err).__name__
    if "WeightsUnpickler error:" in str(err):
        first = str(err).split("WeightsUnpickler error:", 1)[1].strip().splitlines()[0]
    return first[:200]


def _asked_for(message: str, path: Path) -> str | None:
    """Return what a file asks for beside tensors: from torch's message, else from the file's own words."""
    if (found := _ASKS_FOR.search(message)) is not None:
        return next(part for part in found.groups() if part).rstrip(".,")
    # Of pickles of a later form torch only says that it does not know it.
    with path.open("rb") as file:
        data = file.read(_PICKLE_BYTES)
    texts: list[str] = []
    try:
        for code, value, _ in pickletools.genops(data):
            if isinstance(value, str):
                texts.append(value)
            name = None
            if code.name == "GLOBAL":
                name = str(value).replace(" ", ".")
            elif code.name == "STACK_GLOBAL" and len(texts) > 1:
                name = ".".join(texts[-2:])
            if name is not None and not name.startswith(_OWN):
                return name
    except Exception:  # whatever else the bytes are, they are no pickle
        return None
    return None
