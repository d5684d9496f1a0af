"""Checks whether a value has the annotated type of an argument, and texts for values that have not."""

from __future__ import annotations

import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from crab_lightning.spelling import did_you_mean

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "null",
}

OfClass = Callable[[Any, tuple[type, ...], str], str | None]


class _Value(NamedTuple):
    """One value of a ``Literal``."""

    value: Any


def check_arguments(owner: Callable[..., Any], given: Mapping[str, Any], section: str) -> None:
    """Refuse arguments that do not have their annotated type.

    Args:
        owner: The constructor, or the dataclass.
        given: Name -> value of its arguments. Names without an annotation and unusual types are not checked.
        section: The section of a config that has these arguments, for the error; empty for a function.

    Raises:
        ValueError: If an argument has another type; the message names it.
    """
    hints = get_type_hints(owner)
    for name in hints:
        where = f"{section}.{name}" if section else f"`{name}`"
        if name in given and (said := wrong_value(given[name], hints[name], where)):
            raise ValueError(said)


def wrong_value(value: Any, hint: Any, where: str, of_class: OfClass | None = None) -> str | None:
    """Return a text that says what is wrong with a value, or ``None`` if nothing is known to be wrong.

    Args:
        value: A value of Python. With ``of_class``, a value of a config, where a text may be a number.
        hint: The type that the value should have.
        where: The key or the argument, for the text.
        of_class: Returns the text for a value that names a class or has its arguments. It gets the value, the
            classes from one of which the class has to be derived, and ``where``.
    """
    allowed = list(_alternatives(hint))
    # Python callers may give a tensor in place of a number.
    bases = () if float in allowed else tuple(one for one in allowed if _is_class(one))
    if of_class is None and isinstance(value, bases):
        return None
    deeper: list[str | None] = []
    for one in allowed:
        origin, args = get_origin(one), get_args(one)
        if isinstance(one, _Value):
            right = str(value) == str(one.value)
        elif one in _WORDS:
            right = _has_type(value, one, of_class is not None)
        elif _is_class(one):
            continue
        elif not isinstance(origin, type) or not issubclass(origin, Iterable) or issubclass(origin, tuple):
            return None
        else:
            many = issubclass(origin, Mapping)
            right = isinstance(value, Mapping if many else list | tuple)
            if right:
                items = value.items() if many else enumerate(value)
                said = (wrong_value(v, args[-1], f"{where}.{k}", of_class) for k, v in items)
                deeper.append(next(filter(None, said), None))
                right = deeper[-1] is None
        if right:
            return None
    named = isinstance(value, str) and str not in allowed and not all(map(is_dataclass, bases))
    # An empty mapping is no choice among several types; the parser refuses it.
    mapped = isinstance(value, Mapping) and (bool(value) or len(allowed) == 1)
    if of_class is not None and bases and (mapped or named):
        deeper.insert(0, of_class(value, bases, where))
        if deeper[0] is None:
            return None
    values = [one.value for one in allowed if isinstance(one, _Value)]
    wanted = [f"one of {', '.join(dict.fromkeys(map(str, values)))}"] if values else []
    wanted += [_WORDS[one] for one in allowed if one in _WORDS and one is not type(None)]
    wanted += ["a list"] if any(get_origin(one) in (list, Iterable, Sequence) for one in allowed) else []
    wanted += ["a mapping, such as {key: value}"] if any(get_origin(one) is dict for one in allowed) else []
    wanted += [wanted_class(bases) if of_class else f"an object of {class_names(bases)}"] if bases else []
    wanted += ["null" if of_class else "None"] if type(None) in allowed else []
    found = "null" if of_class and value is None else repr(value)
    text = f"{where} is {found}{did_you_mean(value, values)}; it must be {', or '.join(wanted)}"
    if of_class and isinstance(value, bool) and (str in allowed or Path in allowed):
        text += ". Without quotes, YAML reads yes, no, on and off as true or false; write it in quotes"
    return next(filter(None, deeper), text)


def class_names(bases: tuple[type, ...]) -> str:
    """Return the names of classes with ``or`` between them."""
    return " or ".join(base.__name__ for base in bases)


def wanted_class(bases: tuple[type, ...]) -> str:
    """Return a text that says what a config may give for a class that is derived from one of these."""
    if all(map(is_dataclass, bases)):
        return f"a mapping with arguments of {class_names(bases)}"
    return f"the import path of a class derived from {class_names(bases)}"


def _alternatives(hint: Any) -> Iterator[Any]:
    """Yield the types of a union, and the values of a ``Literal``."""
    if get_origin(hint) in (Union, types.UnionType):
        for one in get_args(hint):
            yield from _alternatives(one)
    elif get_origin(hint) is Literal:
        yield from map(_Value, get_args(hint))
    else:
        yield hint


def _is_class(hint: Any) -> bool:
    """Return whether a type is a class outside the standard library, which a config gives by its path."""
    return inspect.isclass(hint) and hint.__module__.partition(".")[0] not in sys.stdlib_module_names


def _has_type(value: Any, kind: type, of_config: bool) -> bool:
    if kind in (str, Path):
        if of_config and isinstance(value, int | float):  # a parser takes a number as a text
            return not isinstance(value, bool)
        return isinstance(value, str | os.PathLike)
    if value is None or kind is type(None):
        return value is None and kind is type(None)
    if of_config and isinstance(value, str) and kind is not bool:
        try:
            number = float(value)
        except ValueError:
            return False
        return number.is_integer() or (kind is float and math.isfinite(number))
    if kind is bool:
        words = ("true", "false", "yes", "no", "0", "1")
        return str(value).lower() in words if of_config else isinstance(value, bool)
    whole = isinstance(value, Integral) or (of_config and isinstance(value, float) and value.is_integer())
    return not isinstance(value, bool) and (whole or (kind is float and isinstance(value, Real)))
