"""Which code a config may name: classes of a few packages, of the kinds that a run is built from.

A config is a text that people share, and every ``class_path`` in it is imported and called. So three things
are checked, each before what it guards:

1. Before anything is imported: every import path, also that of a dataset's ``layout``, has to lie in
   :data:`PACKAGES`, or in a package that the user has named with ``--allow-code-of``. The config itself
   cannot name one.
2. Before anything is built: every import path has to be a class, not a function, and a class of another
   package than this project's has to be one of :func:`_kinds`.
3. Where a run is only asked or tested, what only training needs is taken out of its config:
   :func:`without_training`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from crab_lightning.configuration.files import ConfigError

PACKAGES = ("crab_lightning", "lightning", "torch", "torchmetrics", "transformers", "bitsandbytes")
"""Top-level packages whose classes a config may name."""

OPTION = "--allow-code-of"
VARIABLE = "CRAB_ALLOW_CODE_OF"

_OWN = "crab_lightning"
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")  # jsonargparse's words; a test holds them
_NEVER = {*sys.stdlib_module_names, "builtins", "jsonargparse", "setuptools", "pip"}
_NEVER_SAID = "a config may never name anything of Python's standard library or of its installers"
_named: set[str] = set()
_opened: set[str] = set()


class ForbiddenCode(ConfigError):
    """A config that names code which it may not run."""


def allow_code_of(names: Iterable[str]) -> None:
    """Set the packages beside :data:`PACKAGES` whose code configs may run, in place of those set before.

    Args:
        names: Top-level packages, those of ``--allow-code-of``; the environment variable
            ``CRAB_ALLOW_CODE_OF`` adds to them.

    Raises:
        ConfigError: If one is no name of a package.
    """
    names = [name.strip() for name in names]
    if wrong := [name for name in names if not name.isidentifier()]:
        raise ConfigError(f"{OPTION} {wrong[0]}: give the name of a top-level package, for example my_tasks")
    if never := [name for name in names if name in _NEVER]:
        raise ConfigError(f"{OPTION} {never[0]}: {_NEVER_SAID}")
    _named.clear()
    _named.update(names)


def allowed_packages() -> tuple[str, ...]:
    """Return the top-level packages whose code a config may name now."""
    from_environment = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    return (*PACKAGES, *sorted((_named | from_environment) - {*PACKAGES, *_NEVER}))


def guard_parsers() -> None:
    """Let jsonargparse import values from the allowed packages alone, and build nothing in untyped places.

    This also covers what :func:`check_names` cannot know to be an import path, such as a callable's text.
    """
    from jsonargparse import set_parsing_settings

    from crab_lightning.compat import keep_nulls

    keep_nulls()
    allowed = allowed_packages()
    closed = sorted(_opened - {*allowed})  # named by an earlier call in this process
    set_parsing_settings(
        import_path_denylist=["*", *closed],
        import_path_allowlist=list(allowed),
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,  # LightningCLI turns it on; configs are local files
    )
    _opened.update(allowed)


def check_names(content: Any) -> None:
    """Refuse a config that names a class of a package that is not allowed; imports nothing.

    Raises:
        ForbiddenCode: With the key, the import path and what to do.
    """
    allowed = allowed_packages()
    for where, value in (*_class_paths(content), *_layouts(content)):
        if not isinstance(value, str):
            raise ConfigError(f"{where} is {value!r}; it must be the import path of a class")
        if "." in value and value.partition(".")[0] not in allowed:
            raise ForbiddenCode(f"{where}: {_refusal(value)}")


def other_packages(content: Any) -> set[str]:
    """Return the packages beside :data:`PACKAGES` whose classes a config names."""
    named = (*_class_paths(content), *_layouts(content))
    return {str(path).partition(".")[0] for _, path in named if "." in str(path)} - {*PACKAGES}


def check_classes(parsed: Any) -> None:
    """Refuse a parsed config that names anything but a class of a kind that runs are built from.

    Raises:
        ForbiddenCode: With the key, the import path and what is allowed.
    """
    allowed = {*allowed_packages()} - {*PACKAGES} | {_OWN}
    plain = parsed.as_dict() if hasattr(parsed, "as_dict") else parsed
    check_names(dict(_layouts(plain)))  # one that came with an argument is in no file
    for where, value in _class_paths(plain):
        found = object_of(str(value)) if "." in str(value) else None
        if found is None:
            continue  # a short name, which the parser has looked up among the subclasses of its type
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
            # A default of our own is a lambda, which no import path names.
            name = f"{getattr(leaf, '__module__', '?')}.{getattr(leaf, '__qualname__', leaf)}"
            raise ForbiddenCode(f"{where}: {name} is a function; a config may name classes only")


def denied(message: str) -> str | None:
    """Return what to say where jsonargparse has refused to import something; ``None`` for other messages."""
    found = _DENIED.search(message)
    return None if found is None else _refusal(found[1])


def without_training(content: Mapping[str, Any], *, of_run: bool) -> tuple[dict[str, Any], list[str]]:
    """Take out of a config what a pass without training does not need.

    Args:
        content: The composed config.
        of_run: Whether it is the config that lies in a run folder. Then loggers, profilers and the callbacks
            of other packages go as well as the optimizer: a run folder from elsewhere is only data.

    Returns:
        The config, and what was taken out besides the optimizer, in words.
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
        # A name or a switch chooses among Lightning's own; anything else names a class.
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
    """Import what a path names: a module, then attributes."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError as err:
            if not f"{path}.".startswith(f"{err.name}."):  # one that the module itself imports
                raise
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(f"there is no module for {path}")


_cached_kinds: list[type] = []


def _kinds() -> tuple[type, ...]:
    """Return the base classes of everything of other packages that a run is built from."""
    if not _cached_kinds:
        for path in (
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
        ):
            _cached_kinds.append(object_of(path))
    return tuple(_cached_kinds)
