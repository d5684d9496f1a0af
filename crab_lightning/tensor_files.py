"""Safe reading of tensor files that torch has written: they cannot run code."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# torch's message about a file that contains more than tensors and simple values.
_ASKS_FOR = re.compile(r"GLOBAL (\S+\.\S+) |unrecognized function (\S+)")
# Names in the pickles that torch writes for tensors. Any other name in a pickle is not a tensor.
_OWN = ("torch.", "collections.OrderedDict", "_codecs.encode")
_PICKLE_BYTES = 2**24


class TensorFileError(ValueError):
    """A file is not a tensor file, or it is damaged."""


class UnsafeTensorFile(TensorFileError):
    """Reading a file would load a function or a class, which could run any code."""


def read_tensors(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> Any:
    """Read a file of tensors and simple values.

    Args:
        path: An existing file.
        map_location: Device of the tensors.
        mmap: Whether the tensors stay in the file until they are used.

    Raises:
        UnsafeTensorFile: If the file contains anything but tensors and simple values. No code of it is run.
        TensorFileError: If the content cannot be read.
        OSError: If the file system cannot read the file.
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
    """Return the number of names and the first five of them, or an empty text if there are none."""
    if not names:
        return ""
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{rest}"


def misfits(saved: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> str:
    """Return which weights of a file do not fit a model, or an empty text if all fit.

    Args:
        saved: Name -> weight of the file.
        wanted: Name -> shape of the weight of the model.
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
    """Return the first line of a message. torch's messages continue with advice and a stack trace."""
    lines = str(err).strip().splitlines()
    first = lines[0] if lines else type(err).__name__
    if "WeightsUnpickler error:" in str(err):
        first = str(err).split("WeightsUnpickler error:", 1)[1].strip().splitlines()[0]
    return first[:200]


def _asked_for(message: str, path: Path) -> str | None:
    """Return the name that a file would load, from torch's message or else from the pickle itself."""
    if (found := _ASKS_FOR.search(message)) is not None:
        return next(part for part in found.groups() if part).rstrip(".,")
    # For pickles of a newer protocol, torch only says that it does not know the protocol.
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
    except Exception:  # the bytes are not a pickle
        return None
    return None
