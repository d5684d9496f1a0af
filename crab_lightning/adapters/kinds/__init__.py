"""Adapter kinds by the name that configs and checkpoints use; this folder has one file for each kind.

A file holds the config class of the kind, the layer class, and ``LAYER``, the layer class to register.
Another package adds a kind with an entry point in the group ``crab_lightning.adapters`` that names the layer
class, or in Python with :func:`register_adapter`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, Literal, get_type_hints

from docstring_parser import parse

from crab_lightning.adapters.config import ENTRY_POINTS, AdapterConfig
from crab_lightning.adapters.kinds.lora import LoRALinear
from crab_lightning.spelling import did_you_mean

ADAPTERS: dict[str, type[LoRALinear]] = {}


def register_adapter(layer: type[LoRALinear]) -> type[LoRALinear]:
    """Add a kind of adapters, so that configs, checkpoints and commands know it.

    Args:
        layer: The layer class; its ``config_class`` holds the name and the keys of the kind.

    Returns:
        The same class.

    Raises:
        ValueError: If another class has the name, a key of the config is also a key of another kind with
            another default, the config class is not a dataclass or names no kind, ``decisive`` is missing or
            names something that is not a key, or a trial of the layer fails (:func:`~.trial.try_layer`).
    """
    from crab_lightning.adapters.trial import try_layer  # it imports this module, and may be imported first

    _kind_of(layer)
    try_layer(layer)
    _add(layer)
    describe()
    return layer


def _add(layer: type[LoRALinear]) -> None:
    name = _kind_of(layer)
    if ADAPTERS.get(name, layer) is not layer:
        raise ValueError(
            f"the adapter kind {name!r} is already taken by {_place(ADAPTERS[name])}. Give "
            f"{_place(layer)} a config_class with another kind"
        )
    known = _keys()
    for key in fields(layer.config_class):
        if key.name != "kind" and key.name in known and _default(key) != _default(known[key.name]):
            raise ValueError(
                f"adapter kind {name!r}: the default of {key.name} is {_default(key)!r}; another kind has "
                f"{_default(known[key.name])!r}. Give it the same default or another name"
            )
    ADAPTERS[name] = layer


def _place(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _kind_of(layer: type[LoRALinear]) -> str:
    """Return the name of a layer's kind, after three checks of the config class."""
    config = layer.config_class
    where = _place(config)
    own = vars(config)
    if "__dataclass_fields__" not in own:
        raise ValueError(f"{where} is not a dataclass, so its keys would be lost; write @dataclass above it")
    if "kind" not in own.get("__annotations__", {}) or not isinstance(own.get("kind"), str):
        raise ValueError(
            f'{where} does not name its kind; write `kind: Literal["my_kind"] = "my_kind"` into it, and make '
            f"it the config_class of {layer.__name__}"
        )
    added = [key for key in own.get("__annotations__", {}) if key in _names(config) and key != "kind"]
    if added and "decisive" not in own:
        parent = config.__mro__[1].__name__
        raise ValueError(
            f"{where} adds the key {added[0]!r} and does not say whether it changes what the same weights"
            f" compute. If it does, write `decisive = (*{parent}.decisive, {added[0]!r})`; if not, write"
            f" `decisive = {parent}.decisive`"
        )
    if lost := [key for key in config.decisive if key not in _names(config)]:
        raise ValueError(
            f"{where}.decisive names {lost[0]!r}{did_you_mean(lost[0], _names(config))}, but this config has "
            f"no such key; it has: {', '.join(key.name for key in fields(config))}"
        )
    return config.kind


def make_config(kind: str = "ilora", **values: Any) -> AdapterConfig:
    """Return the config of a kind; ``AdapterConfig(kind=..., ...)`` calls this function.

    Args:
        kind: Name of the kind.
        **values: Keys of any kind.

    Raises:
        TypeError: If no kind has such a key.
        ValueError: If the kind is unknown, a value is out of range, or a key that the kind does not read has
            another value than its default.
    """
    own = own_keys({"kind": kind} | values)
    known = all_keys()
    for key, value in values.items():
        if key not in known:
            near = did_you_mean(key, known)
            raise TypeError(f"there is no adapter.{key}{near}; known: {', '.join(known)}")
        if key not in own and value != _default(known[key]):
            readers = [name for name, layer in ADAPTERS.items() if key in _names(layer.config_class)]
            raise ValueError(
                f"adapter.{key} is for kind {', '.join(readers)}; adapter.kind is {kind!r}, which does not "
                f"read it (its value is {value!r}). Leave adapter.{key} out, or choose another kind"
            )
    made: AdapterConfig = ADAPTERS[kind].config_class(**own)
    return made


def own_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config that its kind reads.

    Args:
        values: Key -> value; ``kind`` names the kind.

    Raises:
        ValueError: If the kind is unknown.
    """
    load_installed_kinds()
    kind = values.get("kind", AdapterConfig.kind)
    if not isinstance(kind, str) or kind not in ADAPTERS:
        raise ValueError(
            f"adapter.kind is {kind!r}{did_you_mean(kind, ADAPTERS)}; known: {', '.join(ADAPTERS)}. "
            + AdapterConfig.value_advice["kind"]
        )
    names = _names(ADAPTERS[kind].config_class)
    return {key: value for key, value in values.items() if key in names}


def drop_foreign_keys(model: Mapping[str, Any]) -> None:
    """Remove the keys of ``model.adapter`` that the kind of the adapters does not read.

    Older versions wrote the keys of all kinds into the config of a run.

    Args:
        model: The section ``model`` of a config; changed in place.
    """
    init = model.get("init_args") or {}
    if init.get("adapter"):
        init["adapter"] = own_keys(init["adapter"])


def all_keys() -> dict[str, Field[Any]]:
    """Return the keys of all kinds by name; the keys that every kind has come first."""
    load_installed_kinds()
    return _keys()


def _keys() -> dict[str, Field[Any]]:
    found = {key.name: key for key in fields(AdapterConfig)}
    for layer in ADAPTERS.values():
        found |= {key.name: key for key in fields(layer.config_class) if key.name not in found}
    return found


def _names(config: type[AdapterConfig]) -> set[str]:
    return {key.name for key in fields(config)}


def _default(key: Field[Any]) -> Any:
    return key.default if key.default_factory is MISSING else key.default_factory()


def describe() -> None:
    """Give ``AdapterConfig`` the keys of all kinds, so that config files, options and help have them.

    jsonargparse reads the signature, the annotations and the docstring of a class, so these are replaced.
    """
    hints: dict[str, Any] = {}
    notes: dict[str, str] = {}
    summaries = []
    for name, layer in ADAPTERS.items():
        config = layer.config_class
        hints = get_type_hints(config) | hints
        doc = parse(inspect.getdoc(config) or "")
        summaries.append(f"``{name}``: {doc.short_description}")
        for item in doc.params:
            readers = [n for n, la in ADAPTERS.items() if item.arg_name in _names(la.config_class)]
            notes.setdefault(item.arg_name, f"For kind {', '.join(readers)}: {item.description}")
    hints["kind"] = Literal[tuple(ADAPTERS)]
    common = inspect.cleandoc(_DOC)
    general = {item.arg_name: item.description or "" for item in parse(common).params}
    general["kind"] = " ".join(summaries)
    lines = [f"    {key}: {' '.join(text.split())}" for key, text in (general | notes).items()]
    AdapterConfig.__doc__ = common.partition("Args:")[0] + "Args:\n" + "\n".join(lines) + "\n"
    parameters = [
        inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=_default(v), annotation=hints[k])
        for k, v in _keys().items()
    ]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    init: Any = AdapterConfig.__init__
    init.__signature__ = inspect.Signature([own, *parameters])
    init.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


_DOC = AdapterConfig.__doc__ or ""


@cache
def load_installed_kinds() -> None:
    """Add the kinds of other installed packages; this runs once, when a kind is first needed.

    The modules of these kinds import this package, so they cannot be loaded while it is being imported. A
    kind that cannot be loaded gives a warning; a run that needs it ends with the same text.
    """
    for point in entry_points(group=ENTRY_POINTS):
        try:
            register_adapter(point.load())
        except Exception as err:
            told = (
                f"an installed package adds the adapter kind {point.name!r} ({point.value!r}), which cannot"
                f" be loaded ({type(err).__name__}: {err}); repair or remove that package"
            )
            warnings.warn(told, stacklevel=2)
            advice = f"{AdapterConfig.value_advice['kind']}. {told[0].upper()}{told[1:]}"
            AdapterConfig.value_advice = {**AdapterConfig.value_advice, "kind": advice}


for _module in sorted(iter_modules(__path__), key=lambda m: m.name):
    _add(import_module(f"{__name__}.{_module.name}").LAYER)
describe()
