"""Finds the value of a config that has a wrong type, after a parser has refused the config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

from crab_lightning.configuration.allowed_code import allowed_packages, object_of
from crab_lightning.spelling import did_you_mean
from crab_lightning.value_types import class_names, wanted_class, wrong_value


def first_wrong(content: Mapping[str, Any], places: Mapping[str, Any]) -> str | None:
    """Return an error message about the first value of a config that has a wrong type.

    Args:
        content: The composed config.
        places: The type of each section: a class whose arguments the section contains, an abstract class of
            which it names a subclass, or a type such as ``dict[str, Task]``.

    Returns:
        A sentence with the key, the value and what is allowed; ``None`` if no type is wrong.
    """
    for key, kind in places.items():
        section = isinstance(kind, type) and not inspect.isabstract(kind)
        if section and not isinstance(content.get(key, {}), Mapping):
            return f"{key} is {content[key]!r}; it must be a mapping, such as {{key: value}}"
    return _first(_wrong(content[key], hint, key) for key, hint in places.items() if key in content)


def no_such_class(path: str, *bases: type) -> str | None:
    """Return why a name is not that of a class derived from ``bases``, and suggest a similar name.

    Args:
        path: An import path in a package that configs may name, or the short name of a class.
        bases: The class must be derived from one of these classes.

    Returns:
        The rest of a sentence that begins with the name; ``None`` if there is such a class.
    """
    try:
        found: Any = object_of(_import_path(path, bases))
    except Exception as err:
        lacking = str(getattr(err, "name", None) or path)
        own = lacking in path.split(".") or f"{path}.".startswith(f"{lacking}.")
        if not isinstance(err, ModuleNotFoundError | AttributeError) or not own:
            return f", which cannot be imported ({type(err).__name__}: {err})"
        package = path.partition(".")[0]
        absent = "" if _last_module(path) or "." not in path else f", since no package {package} is installed"
        name, known = path.rpartition(".")[2], _known(path, bases)
        near = name if name in known else next(iter(get_close_matches(name, known, 1)), None)
        if near:
            return f"; there is no such class{absent} (did you mean '{known[near]}'?)"
        return f"; there is no such class{absent}. {_choice(known, bases)}"
    if not isinstance(found, type):
        return f", which is a {type(found).__name__}; a config may name classes only"
    if issubclass(found, bases):
        members = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        return f", which is not complete. Define {members} in that class" if members else None
    return f", which is not derived from {class_names(bases)}. {_choice(_known(path, bases), bases)}"


def _wrong(value: Any, hint: Any, where: str) -> str | None:
    if get_origin(hint) is Callable:  # such as an optimizer; the type that the call returns is checked
        hint = get_args(hint)[-1]
    return wrong_value(value, hint, where, _wrong_class)


def _wrong_class(value: Any, bases: tuple[type, ...], where: str) -> str | None:
    """Return an error message about the name of a class or about its arguments, if one is wrong."""
    kinds = bases
    if isinstance(value, str) or "class_path" in value:
        allowed = ("class_path", "init_args", "dict_kwargs")
        for key in () if isinstance(value, str) else value:
            if key not in allowed:
                near = did_you_mean(key, allowed)
                return f"{where} has no key '{key}'{near}; beside class_path it has init_args"
        path = value if isinstance(value, str) else value["class_path"]
        if not isinstance(path, str) or ("." in path and path.partition(".")[0] not in allowed_packages()):
            return None  # refused elsewhere, before anything is imported
        if said := no_such_class(path, *bases):
            return f"{where}{'' if path is value else '.class_path'} is {path!r}{said}"
        kinds = (object_of(_import_path(path, bases)),)
        value = {} if isinstance(value, str) else value.get("init_args") or {}
        where = f"{where}.init_args"
    elif all(map(inspect.isabstract, bases)):
        near = _first(did_you_mean(key, ["class_path"]) or None for key in value) or ""
        has = f"it has {', '.join(value)}{near}" if value else "it is empty"
        wanted = f"{wanted_class(bases)}, or the name of an entry that exists"
        return f"{where} has no class_path; {has}. Give {wanted}"
    hints: dict[str, Any] = {}
    advice: dict[str, str] = {}
    for kind in kinds:
        advice |= getattr(kind, "value_advice", {})
        for base in reversed(kind.__mro__):
            if "__init__" in vars(base):
                with suppress(Exception):  # annotations that only their own package can read
                    hints |= _hints(vars(base)["__init__"])
    for key in value:
        if key in hints and (said := _wrong(value[key], hints[key], f"{where}.{key}")):
            return f"{said}. {advice[key]}" if key in advice else said
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of arguments. An argument whose default is ``None`` may be null, as for the parser."""
    hints = get_type_hints(function)
    for name, argument in inspect.signature(function).parameters.items():
        if argument.default is None and name in hints:
            hints[name] = hints[name] | None
    return hints


def _import_path(name: str, bases: tuple[type, ...]) -> str:
    """Return the import path of a class that a config names; a name with a dot is such a path already."""
    return name if "." in name else _known(name, bases).get(name, name)


def _known(path: str, bases: tuple[type, ...]) -> dict[str, str]:
    """Return the import paths, by name, of the classes derived from ``bases`` in these packages."""
    rooms = []
    for base in bases:
        parts = base.__module__.split(".")
        rooms += [".".join(parts[:count]) for count in range(2, len(parts) + 1)]
    found: dict[str, str] = {}
    for room in filter(None, [*rooms, _last_module(path)]):
        module = import_module(room)
        for name in sorted({*vars(module), *getattr(module, "__all__", ())}):
            with suppress(Exception):  # a class that needs a package which is not installed
                kind = getattr(module, name)
                if isinstance(kind, type) and issubclass(kind, bases) and not inspect.isabstract(kind):
                    found.setdefault(name, f"{room}.{name}")
    return found


def _last_module(path: str) -> str:
    """Return the longest beginning of an import path that is a module, or an empty text."""
    parts = path.split(".")[:-1]
    for count in range(len(parts), 0, -1):
        with suppress(ImportError):
            return import_module(".".join(parts[:count])).__name__
    return ""


def _choice(known: Mapping[str, str], bases: tuple[type, ...]) -> str:
    """Return a sentence that lists the possible classes of each package."""
    rooms: dict[str, list[str]] = {}
    for name, path in known.items():
        rooms.setdefault(path.rpartition(".")[0], []).append(name)
    listed = "; ".join(f"{', '.join(names)} of {room}" for room, names in rooms.items())
    return f"Give {wanted_class(bases)}" + (f": {listed}" if listed else "")


def _first(found: Iterable[str | None]) -> str | None:
    return next(filter(None, found), None)
