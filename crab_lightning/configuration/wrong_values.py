"""Which value of a config has a wrong type, in plain words; asked after a parser has refused the config."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from crab_lightning.configuration.allowed_code import allowed_packages, object_of
from crab_lightning.spelling import did_you_mean

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}


class _Value(NamedTuple):
    """One value of a ``Literal``."""

    value: Any


def first_wrong(content: Mapping[str, Any], places: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first value of a config that has not the type that it needs.

    Args:
        content: The composed config.
        places: The type of each section: a class whose arguments the section gives, an abstract class one of
            whose subclasses it names, or a type such as ``dict[str, Task]``.

    Returns:
        A sentence with the key, what was found and what is allowed; ``None`` if no type is wrong.
    """
    for key, kind in places.items():
        section = isinstance(kind, type) and not inspect.isabstract(kind)
        if section and not isinstance(content.get(key, {}), Mapping):
            return f"{key} is {content[key]!r}; it must be a mapping, such as {{key: value}}"
    said = _first(_wrong(content[key], hint, key) for key, hint in places.items() if key in content)
    if said and "adapter.kind is" in said:
        said += ". If another package adds this kind, install that package in this environment"
    return said


def no_such_class(path: str, *bases: type) -> str | None:
    """Return why a name is not that of a class of some kind, with the name that is most like it.

    Args:
        path: An import path in a package that configs may name, or the short name of a class.
        bases: The classes from one of which it has to be derived.

    Returns:
        What follows the name in a sentence; ``None`` if there is such a class.
    """
    known = _known(path, bases)
    try:
        found: Any = object_of(known.get(path, path) if "." not in path else path)
    except Exception as err:
        lacking = str(getattr(err, "name", None) or path)
        own = lacking in path.split(".") or f"{path}.".startswith(f"{lacking}.")
        if not isinstance(err, ModuleNotFoundError | AttributeError) or not own:
            return f", which cannot be imported ({type(err).__name__}: {err})"
        package = path.partition(".")[0]
        absent = "" if _last_module(path) or "." not in path else f", since no package {package} is installed"
        name = path.rpartition(".")[2]
        near = name if name in known else next(iter(get_close_matches(name, known, 1)), None)
        if near:
            return f"; there is no such class{absent} (did you mean '{known[near]}'?)"
        return f"; there is no such class{absent}. {_choice(known, bases)}"
    if not isinstance(found, type):
        return f", which is a {type(found).__name__}; a config may name classes only"
    return None if issubclass(found, bases) else f", which is no {_names(bases)}. {_choice(known, bases)}"


def _wrong(value: Any, hint: Any, where: str) -> str | None:
    """Return what is wrong with a value; ``None`` where nothing is, or where this cannot be told."""
    allowed = list(_alternatives(hint))
    # A tensor may stand for a number, which is not what a config holds.
    bases = () if float in allowed else tuple(one for one in allowed if _is_class(one))
    deeper: list[str | None] = []
    for one in allowed:
        origin, args = get_origin(one), get_args(one)
        if isinstance(one, _Value):
            right = str(value) == str(one.value)
        elif one in _WORDS:
            right = _has_type(value, one)
        elif _is_class(one):
            continue
        elif not isinstance(origin, type) or not issubclass(origin, Iterable) or issubclass(origin, tuple):
            return None
        else:
            many = issubclass(origin, Mapping)
            right = isinstance(value, Mapping if many else list)
            if right:
                items = value.items() if many else enumerate(value)
                deeper.append(_first(_wrong(v, args[-1], f"{where}.{k}") for k, v in items))
                right = deeper[-1] is None
        if right:
            return None
    named = isinstance(value, str) and str not in allowed and not all(map(is_dataclass, bases))
    if bases and (isinstance(value, Mapping) or named):
        deeper.insert(0, _wrong_class(value, bases, where))
        if deeper[0] is None:
            return None
    values = [one.value for one in allowed if isinstance(one, _Value)]
    wanted = [f"one of {', '.join(dict.fromkeys(map(str, values)))}"] if values else []
    wanted += [_WORDS[one] for one in allowed if one in _WORDS and one is not type(None)]
    wanted += ["a list"] if any(get_origin(one) in (list, Iterable) for one in allowed) else []
    wanted += ["a mapping, such as {key: value}"] if any(get_origin(one) is dict for one in allowed) else []
    wanted += [_wanted(bases)] if bases else []
    wanted += ["null"] if type(None) in allowed else []
    said = f"{where} is {value!r}{did_you_mean(value, values)}; it must be {', or '.join(wanted)}"
    return next(filter(None, deeper), said)


def _alternatives(hint: Any) -> Iterator[Any]:
    """Yield the types of a union, and the values of a ``Literal``."""
    if get_origin(hint) in (Union, types.UnionType):
        for one in get_args(hint):
            yield from _alternatives(one)
    elif get_origin(hint) is Literal:
        yield from map(_Value, get_args(hint))
    else:  # of an optimizer, which is called later, what the call returns
        yield get_args(hint)[-1] if get_origin(hint) is Callable else hint


def _is_class(hint: Any) -> bool:
    """Return whether a config gives the name of a class or its arguments for this type."""
    return isinstance(hint, type) and hint.__module__.partition(".")[0] not in sys.stdlib_module_names


def _has_type(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str | int | float)
    if value is None or kind is type(None):
        return value is None and kind is type(None)
    if kind is bool:
        return str(value).lower() in ("true", "false", "yes", "no", "0", "1")
    try:
        return not isinstance(value, bool) and (float(value).is_integer() or kind is float)
    except (TypeError, ValueError):
        return False


def _wrong_class(value: Any, bases: tuple[type, ...], where: str) -> str | None:
    """Return what is wrong with the name of a class, or with the arguments for it."""
    kinds = bases
    if isinstance(value, str) or "class_path" in value:
        path = value if isinstance(value, str) else value["class_path"]
        if not isinstance(path, str) or ("." in path and path.partition(".")[0] not in allowed_packages()):
            return None  # which is refused elsewhere, before anything is imported
        if said := no_such_class(path, *bases):
            return f"{where}{'' if path is value else '.class_path'} is {path!r}{said}"
        kinds = (object_of(_known(path, bases).get(path, path)),)
        value = {} if isinstance(value, str) else value.get("init_args") or {}
        where = f"{where}.init_args"
    elif all(map(inspect.isabstract, bases)):
        near = _first(did_you_mean(key, ["class_path"]) or None for key in value) or ""
        has = f"it has {', '.join(value)}{near}" if value else "it is empty"
        return (
            f"{where} has no class_path; {has}. Give {_wanted(bases)}, or the name of an entry that is there"
        )
    hints: dict[str, Any] = {}
    for kind in kinds:
        for base in reversed(kind.__mro__):
            if "__init__" in vars(base):
                with suppress(Exception):  # an annotation that only its own package can read
                    hints |= get_type_hints(vars(base)["__init__"])
    return _first(_wrong(value[key], hints[key], f"{where}.{key}") for key in value if key in hints)


def _known(path: str, bases: tuple[type, ...]) -> dict[str, str]:
    """Return by name the import paths of the classes of some kind in its package and in that of a path."""
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
    """Return the longest beginning of an import path that is a module; nothing where there is none."""
    parts = path.split(".")[:-1]
    for count in range(len(parts), 0, -1):
        with suppress(ImportError):
            return import_module(".".join(parts[:count])).__name__
    return ""


def _names(bases: tuple[type, ...]) -> str:
    return " or ".join(base.__name__ for base in bases)


def _wanted(bases: tuple[type, ...]) -> str:
    if all(map(is_dataclass, bases)):
        return f"a mapping with arguments of {_names(bases)}"
    return f"the import path of a class derived from {_names(bases)}"


def _choice(known: Mapping[str, str], bases: tuple[type, ...]) -> str:
    """Return which classes there are, by package."""
    rooms: dict[str, list[str]] = {}
    for name, path in known.items():
        rooms.setdefault(path.rpartition(".")[0], []).append(name)
    listed = "; ".join(f"{', '.join(names)} of {room}" for room, names in rooms.items())
    return f"Give {_wanted(bases)}" + (f": {listed}" if listed else "")


def _first(found: Iterable[str | None]) -> str | None:
    return next(filter(None, found), None)
