"""What is said where a checkpoint is absent or does not fit, and where a thinker keeps its towers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from huggingface_hub.errors import HFValidationError
from torch import Tensor

from crab_lightning.distributed.local_shards import whole_shape
from crab_lightning.encoders.base import Encoder
from crab_lightning.tensor_files import misfits


@contextmanager
def clear_when_absent(what: str, remedy: str = "Give the folder of one") -> Iterator[None]:
    """Name the option and the remedy where transformers finds no checkpoint: it raises a bare error then.

    Args:
        what: The option with its value, and what should have been read from it.
        remedy: What to give instead.

    Raises:
        FileNotFoundError: In place of that bare error; any other error passes.
    """
    try:
        yield
    except (OSError, HFValidationError) as err:
        if isinstance(err, OSError) and (type(err) is not OSError or err.errno is not None):
            raise
        raise FileNotFoundError(f"{what} could be read there or on the hub ({err}). {remedy}") from err


_OLD_PARADIGMS = {"OmniModule": "native", "LlmVaModule": "llm_va", "VllmAModule": "vllm_a"}


def same_paradigm(name: str | None) -> str | None:
    """Return the short name of an architecture as a file has it; older files have the name of the class."""
    return None if name is None else _OLD_PARADIGMS.get(name, name)


def _inits(owner: type) -> Iterator[tuple[type, dict[str, inspect.Parameter]]]:
    """Yield the classes whose ``__init__`` takes the owner's arguments: one that takes any passes them on."""
    for kind in owner.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = dict(inspect.signature(vars(kind)["__init__"]).parameters)
        del parameters[next(iter(parameters))]  # self
        yield kind, parameters
        if not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
            return


def given_arguments(owner: type, args: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, those passed on to a parent class too.

    Raises:
        TypeError: If a class does not take them.
    """
    found: dict[str, Any] = {}
    for kind, parameters in _inits(owner):
        try:
            bound = inspect.Signature(list(parameters.values())).bind_partial(*args, **values).arguments
        except TypeError as err:
            raise TypeError(
                f"{owner.__name__}: {err}; give each argument but the first by its name. "
                f"{kind.__name__} takes {', '.join(parameters)}"
            ) from err
        args, values = (), {}
        for name, value in bound.items():
            if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                args = value
            elif parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                values = value
            else:
                found[name] = value
    return found


def plain_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a module as values that JSON, and a checkpoint that runs no code, can hold."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain_arguments(asdict(value))
    if isinstance(value, Encoder):
        path = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"class_path": path, "init_args": plain_arguments(value.arguments())}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def typed_arguments(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`plain_arguments`: build the dataclasses and encoders that the owner's arguments are of.

    Raises:
        ValueError: If the owner has no such argument, since the file is of another version or class, or the
            file names an encoder of another package that is not imported: a file must not run code.
    """
    hints: dict[str, Any] = {}
    for kind, _ in _inits(owner):
        hints = get_type_hints(kind.__init__) | hints  # type: ignore[misc]
    known = {name for _, parameters in _inits(owner) for name in parameters}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{owner.__name__} has no argument {', '.join(unknown)}, but the checkpoint has it")
    found = dict(values)
    for name, value in values.items():
        kinds = [kind for kind in (hints.get(name), *get_args(hints.get(name))) if is_dataclass(kind)]
        if isinstance(value, Mapping) and kinds:
            made: Any = kinds[0]
            found[name] = made(**value)
        elif isinstance(value, Mapping) and "class_path" in value:
            found[name] = _encoder(name, str(value["class_path"]))(**value["init_args"])
    return found


def _encoder(name: str, path: str) -> type[Encoder]:
    module, _, kind = path.rpartition(".")
    if module.startswith("crab_lightning."):
        import_module(module)
    found = getattr(sys.modules.get(module), kind, None)
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        raise ValueError(
            f"the checkpoint contains {name} {path}, which is not an encoder that is imported. Import its "
            f"module first, or give {name}=... as an argument"
        )
    return found


def check_fit(saved: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Compare the weights of a checkpoint with those that a model trains.

    Raises:
        ValueError: If weights are missing, unknown or of another shape.
    """
    if found := misfits(saved, {name: whole_shape(weight) for name, weight in trained.items()}):
        raise ValueError(
            f"the checkpoint does not fit the model; of its weights, {found}. Give model.adapter"
            " the kind, rank, heads and targets it was trained with."
        )


def towers_of(model: Any) -> tuple[Any, Any]:
    """Return the vision and the audio tower of a thinker: inside ``model.model``, or beside it (5.17)."""
    inner = model.model if hasattr(model.model, "visual") else model
    return inner.visual, inner.audio_tower
