"""Checks of the keys and values of a column map. Each error names the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from crab_lightning.data.manifests.column_types import FIELD_TYPES, show
from crab_lightning.spelling import did_you_mean


def refuse_misspelt(name: str, said: Any, fields: Mapping[str, Any], where: str) -> None:
    """Refuse a field whose name is probably a misspelt one: a task would not find it and say nothing."""
    typed = isinstance(said, Mapping) and "type" in said
    near = [] if typed or name in FIELD_TYPES else get_close_matches(str(name), FIELD_TYPES, 1, 0.85)
    if near and near[0] not in fields:
        raise ValueError(
            f"{where}.fields has {name!r}, which no shipped task reads (did you mean {near[0]!r}?). Correct"
            f" it, or write `{name}: {{key: ..., type: any}}` if a task of your own reads it"
        )


def places(parts: list[str | tuple[str, int | None]]) -> list[str]:
    """Return the names of the fields in a template."""
    return [part[0] for part in parts if not isinstance(part, str)]


def refer(names: Iterable[str | None], given: Sequence[str], where: str) -> None:
    """Check that the map has all fields that one of its keys names."""
    for name in names:
        if name is not None and name not in given:
            raise ValueError(
                f"{where} names the field {name!r}{did_you_mean(name, given)}, which `fields` does not give; "
                f"it gives: {', '.join(given) or 'none'}"
            )


def known_texts(value: Any, where: str) -> None:
    """Check that a value is a mapping from texts to texts."""
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{where} is {show(value)}; it must be a mapping from texts to texts")


def one_name(value: Any, where: str) -> str | None:
    """Return a name or ``None``, and refuse any other value."""
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"{where} is {show(value)}; it must be one name")
    return value


def key_names(value: Any, where: str) -> tuple[str, ...]:
    """Return a name, or a list of names, as a tuple."""
    if value is None:
        return ()
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where} is {show(value)}; it must be the name of a key, or a list of such names")
    return tuple(names)


def known_keys(content: Any, known: set[str], where: str) -> None:
    """Check that a value is a mapping that has only known keys."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} is {show(content)}; it must be a mapping of: {', '.join(sorted(known))}")
    if unknown := [str(key) for key in content if key not in known]:
        near = did_you_mean(unknown[0], known)
        raise ValueError(f"{where} has the key {unknown[0]!r}{near}; it knows: {', '.join(sorted(known))}")
