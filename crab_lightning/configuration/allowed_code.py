"""Checks of the code that a config names: it may name only classes of a few packages and of a few kinds.

People share configs, and every ``class_path`` in a config is imported and called. So there are three rules:

1. Before anything is imported, every import path (also the ``layout`` of a dataset) must belong to
   :data:`PACKAGES`, or to a package that the user has named with ``--allow-code-of``. The config itself
   cannot allow a package.
2. Before anything is built, every import path must be that of a class, and not of a function. A class of
   another package must be derived from one of :func:`_kinds`.
3. If a run is only asked or tested, :func:`without_training` removes the settings of training from its
   config.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from crab_lightning.configuration.files import ConfigError

PACKAGES = ("crab_lightning", "lightning", "torch", "torchmetrics", "transformers", "bitsandbytes")
"""Top-level packages whose classes a config may name."""

OPTION = "--allow-code-of"
VARIABLE = "CRAB_ALLOW_CODE_OF"

_OWN = "crab_lightning"
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")  # a message of jsonargparse; a test checks it
_NEVER = {*sys.stdlib_module_names, "builtins", "jsonargparse", "setuptools", "pip"}
_NEVER_SAID = "a config may never name anything of Python's standard library or of its installers"
_named: set[str] = set()
_opened: set[str] = set()


class ForbiddenCode(ConfigError):
    """A config names code that it may not run."""


def allow_code_of(names: Iterable[str]) -> None:
    """Set the packages, other than :data:`PACKAGES`, whose code configs may run. Earlier calls are forgotten.

    Args:
        names: The top-level packages of ``--allow-code-of``. The packages in the environment variable
            ``CRAB_ALLOW_CODE_OF`` are allowed, too.

    Raises:
        ConfigError: If a name is not that of a package, or is that of a package that is never allowed.
    """
    names = [name.strip() for name in names]
    if wrong := [name for name in names if not name.isidentifier()]:
        raise ConfigError(f"{OPTION} {wrong[0]}: give the name of a top-level package, for example my_tasks")
    if never := [name for name in names if name in _NEVER]:
        raise ConfigError(f"{OPTION} {never[0]}: {_NEVER_SAID}")
    _named.clear()
    _named.update(names)


def allowed_packages() -> tuple[str, ...]:
    """Return the top-level packages whose code a config may name at present."""
    from_environment = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    return (*PACKAGES, *sorted((_named | from_environment) - {*PACKAGES, *_NEVER}))


def guard_parsers() -> None:
    """Let jsonargparse import only from the allowed packages, and build no objects where the type is unknown.

    :func:`check_names` cannot recognise every import path, for example that of a callable.
    """
    from jsonargparse import set_parsing_settings

    from crab_lightning.compat import keep_nulls

    keep_nulls()
    allowed = allowed_packages()
    closed = sorted(_opened - {*allowed})  # allowed by an earlier call in this process
    set_parsing_settings(
        import_path_denylist=["*", *closed],
        import_path_allowlist=list(allowed),
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,  # LightningCLI turns it on; configs are local files
    )
    _opened.update(allowed)


def check_names(content: Any) -> None:
    """Refuse a config that names a class of a package that is not allowed. This imports nothing.

    Raises:
        ForbiddenCode: If there is such a class. The message has the key, the import path and the remedy.
        ConfigError: If a ``class_path`` is not a text.
    """
    allowed = allowed_packages()
    for where, value in (*_class_paths(content), *_layouts(content)):
        if not isinstance(value, str):
            raise ConfigError(f"{where} is {value!r}; it must be the import path of a class")
        if "." in value and value.partition(".")[0] not in allowed:
            raise ForbiddenCode(f"{where}: {_refusal(value)}")


def other_packages(content: Any) -> set[str]:
    """Return the packages, other than :data:`PACKAGES`, whose classes a config names."""
    named = (*_class_paths(content), *_layouts(content))
    return {str(path).partition(".")[0] for _, path in named if "." in str(path)} - {*PACKAGES}


def check_classes(parsed: Any) -> None:
    """Refuse a parsed config that names a function, or a class that is not a part of a run.

    Raises:
        ForbiddenCode: If there is one. The message has the key, the import path and what is allowed.
    """
    allowed = {*allowed_packages()} - {*PACKAGES} | {_OWN}
    plain = parsed.as_dict() if hasattr(parsed, "as_dict") else parsed
    check_names(dict(_layouts(plain)))  # a layout of the command line is in no file
    for where, value in _class_paths(plain):
        found = object_of(str(value)) if "." in str(value) else None
        if found is None:
            continue  # a short name, which the parser has found among the subclasses of the type
        kind = type(found).__name__
        if not isinstance(found, type):
            raise ForbiddenCode(f"{where}: {value} is a {kind}; a config may name classes only")
        if found.__module__.partition(".")[0] not in allowed and not issubclass(found, _kinds()):
            kinds = ", ".join(sorted({k.__name__ for k in _kinds()}))
            raise ForbiddenCode(
                f"{where}: {value} is not one of the classes that a run is built from ({kinds}, and the "
                f"classes of {_OWN})"
            )
    for where, leaf in _nodes(plain, ""):
        if callable(leaf) and not isinstance(leaf, type) and getattr(leaf, "__name__", "") != "<lambda>":
            # Defaults of this package are lambdas, which no import path names.
            name = f"{getattr(leaf, '__module__', '?')}.{getattr(leaf, '__qualname__', leaf)}"
            raise ForbiddenCode(f"{where}: {name} is a function; a config may name classes only")


def denied(message: str) -> str | None:
    """Return our message if jsonargparse has refused to import something, or ``None`` for other messages."""
    found = _DENIED.search(message)
    return None if found is None else _refusal(found[1])


def without_training(content: Mapping[str, Any], *, of_run: bool) -> tuple[dict[str, Any], list[str]]:
    """Return a config without the settings that only training needs.

    Args:
        content: The composed config.
        of_run: Whether the config comes from a run folder. Then loggers, profilers and the callbacks of other
            packages are removed too, because a run folder may come from another person.

    Returns:
        The config, and the names of the removed settings other than the optimizer.
    """
    result = {**content}
    model = result.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("init_args"), Mapping):
        kept = {key: value for key, value in model["init_args"].items() if key != "optimizer"}
        result["model"] = {**model, "init_args": kept}
    trainer = result.get("trainer")
    if not of_run or not isinstance(trainer, Mapping):
        return result, []
    trainer, taken = {**trainer}, []
    for key in ("logger", "profiler"):
        # A short name, true or false chooses a class of Lightning; any other value names a class.
        if isinstance(trainer.get(key), (Mapping, list)) or "." in str(trainer.get(key)):
            taken.append(f"trainer.{key}")
            del trainer[key]
    callbacks = trainer.get("callbacks")
    if callbacks is not None:
        listed = callbacks if isinstance(callbacks, list) else [callbacks]
        own = [entry for entry in listed if _path_of(entry).startswith(f"{_OWN}.")]
        taken += [_path_of(entry) for entry in listed if entry not in own]
        trainer["callbacks"] = own or None
    result["trainer"] = trainer
    return result, taken


def _path_of(entry: Any) -> str:
    return str(entry.get("class_path", "")) if isinstance(entry, Mapping) else str(entry)


def _refusal(path: str) -> str:
    package = path.partition(".")[0]
    if package in _NEVER:
        return f"'{path}': {_NEVER_SAID}"
    return (
        f"'{path}' is not in a package whose code a config may run ({', '.join(allowed_packages())}). If you"
        f" trust this config and the package {package}, add {OPTION} {package}: the config may then run any"
        " code of that package"
    )


def _class_paths(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield every ``class_path`` below a node, at any depth, with its key."""
    return (pair for pair in _nodes(node, "") if pair[0].rpartition(".")[2] == "class_path")


def _layouts(node: Any) -> Iterator[tuple[str, str]]:
    """Yield every ``layout`` below a node that is an import path, with its key."""
    for place, value in _nodes(node, ""):
        named = place.rpartition(".")[2] == "layout" and isinstance(value, str)
        if named and "." in value and not value.endswith((".yaml", ".yml")):
            yield place, value


def _nodes(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield a node and all below it, each with its dotted key."""
    yield where, node
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    for key, value in children:
        yield from _nodes(value, f"{where}.{key}" if where else str(key))


def object_of(path: str) -> Any:
    """Import the object with this import path.

    Raises:
        ImportError: If the module cannot be imported.
        AttributeError: If the module has no such object.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError as err:
            if not f"{path}.".startswith(f"{err.name}."):  # the module itself imports something missing
                raise
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(f"there is no module for {path}")


@cache
def _kinds() -> tuple[type, ...]:
    """Return the base classes of the objects of other packages that a config may name."""
    paths = (
        "torch.optim.Optimizer",
        "torch.optim.lr_scheduler.LRScheduler",
        "lightning.pytorch.Callback",
        "lightning.pytorch.loggers.Logger",
        "lightning.pytorch.profilers.Profiler",
        "lightning.pytorch.strategies.Strategy",
        "lightning.pytorch.accelerators.Accelerator",
        "lightning.pytorch.plugins.Precision",
        "lightning.pytorch.plugins.CheckpointIO",
        "lightning.pytorch.plugins.ClusterEnvironment",
        "lightning.pytorch.plugins.LayerSync",
    )
    return tuple(map(object_of, paths))
