"""Helpers for checkpoints: clear errors, the stored arguments of a model, and where the towers are."""

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

from crab_lightning.encoders.base import Encoder
from crab_lightning.spelling import did_you_mean


@contextmanager
def clear_when_absent(what: str, remedy: str = "Give the folder of one") -> Iterator[None]:
    """While the context is open, make the error of transformers for a missing checkpoint a clear one.

    Args:
        what: First part of the message: the option with its value, and what is missing there.
        remedy: Last part of the message: what the user should do.

    Raises:
        FileNotFoundError: Instead of the error of transformers; any other error is not changed.
    """
    try:
        yield
    except (OSError, HFValidationError) as err:
        if isinstance(err, OSError) and (type(err) is not OSError or err.errno is not None):
            raise
        raise FileNotFoundError(f"{what} could be read there or on the hub ({err}). {remedy}") from err


_OLD_PARADIGMS = {"OmniModule": "native", "LlmVaModule": "llm_va", "VllmAModule": "vllm_a"}


def same_paradigm(name: str | None) -> str | None:
    """Return the short name of an architecture; older files have the name of the class instead."""
    return None if name is None else _OLD_PARADIGMS.get(name, name)


def _inits(owner: type) -> Iterator[tuple[type, dict[str, inspect.Parameter]]]:
    """Yield the classes whose ``__init__`` gets arguments of the owner, up to one without ``**options``."""
    for kind in owner.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = dict(inspect.signature(vars(kind)["__init__"]).parameters)
        del parameters[next(iter(parameters))]  # self
        yield kind, parameters
        if not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
            return


def given_arguments(owner: type, args: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor call by name, including those passed on to parent classes.

    Args:
        owner: The class that is called.
        args: Positional arguments of the call.
        values: Keyword arguments of the call.

    Raises:
        TypeError: If the class does not accept these arguments.
    """
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    every = [p.name for _, known in _inits(owner) for p in known.values() if p.kind not in collecting]
    names = dict.fromkeys(every)
    if unknown := [name for name in values if name not in names]:
        raise TypeError(
            f"{owner.__name__} has no argument {unknown[0]!r}{did_you_mean(unknown[0], names)}. "
            f"Its arguments are {', '.join(names)}"
        )
    found: dict[str, Any] = {}
    for _, parameters in _inits(owner):
        try:
            bound = inspect.Signature(list(parameters.values())).bind_partial(*args, **values).arguments
        except TypeError as err:
            raise TypeError(f"{owner.__name__}: {err}. Give each argument but the first by its name") from err
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
    """Return arguments of a module as plain values, which JSON and checkpoints without code can hold."""
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
    """Return arguments with dataclasses and encoders made again; the inverse of :func:`plain_arguments`.

    Args:
        owner: The class of the module; the types of its arguments choose the dataclasses.
        values: Plain values by argument.

    Raises:
        ValueError: If the class has no such argument, or the file names an encoder of another package that is
            not imported yet; it is not imported here, because a file must not run code.
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
            f"the checkpoint names the {name} {path}, which is not an imported encoder. Import its module "
            f"first, or give {name}=... as an argument"
        )
    return found


def refuse_inherited(owner: type, member: str, pretrained: str) -> None:
    """Check that a derived module does not load a checkpoint of its own family as a model of its parent's.

    transformers would only warn, and load the weights that have the same names.

    Args:
        owner: Class of the module.
        member: Name of its attribute that holds the class of transformers.
        pretrained: Folder or hub name of the checkpoint.

    Raises:
        ValueError: If the attribute is inherited and its class reads another config than the checkpoint has.
    """
    if member in vars(owner):
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    config, kind = getattr(config, "thinker_config", config), getattr(owner, member)
    if type(config) is not kind.config_class:
        raise ValueError(
            f"model.pretrained {pretrained} has a {type(config).__name__}, but {owner.__name__}.{member} is "
            f"inherited: {kind.__name__}, which has a {kind.config_class.__name__}. Set {member} in "
            f"{owner.__name__} to the class of transformers that computes this checkpoint"
        )


def towers_of(model: Any) -> tuple[Any, Any]:
    """Return the vision and the audio tower of a thinker, also for older transformers versions (5.17)."""
    inner = model.model if hasattr(model.model, "visual") else model
    return inner.visual, inner.audio_tower
