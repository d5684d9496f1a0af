"""Whether a value has the type that an argument is annotated with, and what to say where it has not."""

from __future__ import annotations

import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from crab_lightning.spelling import did_you_mean

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}

OfClass = Callable[[Any, tuple[type, ...], str], str | None]


class _Value(NamedTuple):
    """One value of a ``Literal``."""

    value: Any


def check_arguments(owner: Callable[..., Any], given: Mapping[str, Any], section: str) -> None:
    """Refuse arguments of a wrong type, which a constructor in Python does not look at by itself.

    Args:
        owner: The constructor, or the dataclass.
        given: Its arguments by name; other names are left alone, and so are types that this does not know.
        section: Where a config has these arguments, for the error; empty for those of a function.

    Raises:
        ValueError: If one has not the type that it is annotated with; the text names it.
    """
    hints = get_type_hints(owner)
    for name in hints:
        where = f"{section}.{name}" if section else f"`{name}`"
        if name in given and (said := wrong_value(given[name], hints[name], where)):
            raise ValueError(said)


def wrong_value(value: Any, hint: Any, where: str, of_class: OfClass | None = None) -> str | None:
    """Return what is wrong with a value; ``None`` where nothing is, or where this cannot be told.

    Args:
        value: The value: of Python, or with ``of_class`` one of a config, where a text may be a number.
        hint: The type it should have.
        where: The key.
        of_class: Returns what is wrong with a value that names a class or holds its arguments, given the
            classes from one of which it has to be derived.
    """
    allowed = list(_alternatives(hint))
    # A tensor may stand for a number, which is not what a config holds.
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
    if of_class is not None and bases and (isinstance(value, Mapping) or named):
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
    text = f"{where} is {value!r}{did_you_mean(value, values)}; it must be {', or '.join(wanted)}"
    return next(filter(None, deeper), text)


def class_names(bases: tuple[type, ...]) -> str:
    """Return the names of some classes."""
    return " or ".join(base.__name__ for base in bases)


def wanted_class(bases: tuple[type, ...]) -> str:
    """Return what a config may give for a class derived from some others."""
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
    """Return whether a config gives the name of a class or its arguments for this type."""
    return inspect.isclass(hint) and hint.__module__.partition(".")[0] not in sys.stdlib_module_names


def _has_type(value: Any, kind: type, of_config: bool) -> bool:
    if kind is str:
        return isinstance(value, str | os.PathLike) or (of_config and isinstance(value, int | float))
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
