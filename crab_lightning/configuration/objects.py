"""Makes the objects that a config describes, after the classes that it names were checked."""

from __future__ import annotations

import inspect
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from crab_lightning.configuration.allowed_code import (
    ForbiddenCode,
    check_classes,
    check_names,
    guard_parsers,
    object_of,
)
from crab_lightning.configuration.files import ConfigError
from crab_lightning.configuration.parser_messages import plainly, refusal, refuse_unread, unknown_key, useful
from crab_lightning.configuration.wrong_values import no_such_class


def objects_of(
    content: Mapping[str, Any], places: Mapping[str, Any], files: Sequence[str | Path] = ()
) -> Any:
    """Make the objects that some sections of a config describe.

    Args:
        content: The config, with these sections.
        places: The type of each section: a class whose arguments the section contains, an abstract class of
            which it names a subclass, or a type such as ``dict[str, Task]``.
        files: The config files that the sections come from, for error messages.

    Returns:
        The objects, as attributes with the names of the sections.

    Raises:
        ForbiddenCode: If the config names code that it may not run.
        ConfigError: If a key or value is wrong.
    """
    parser = ArgumentParser(exit_on_error=False)
    for key, kind in places.items():
        if not isinstance(kind, type):
            parser.add_argument(f"--{key}", type=kind)
        elif inspect.isabstract(kind):
            parser.add_subclass_arguments(kind, key, fail_untyped=False, required=True)
        else:
            parser.add_class_arguments(kind, key, fail_untyped=False)
    guard_parsers()
    with plainly(files):
        check_names(content)
        try:
            given = {key: content[key] for key in places}
            parsed = parser.parse_object(deepcopy(given))  # the parser changes the object that it gets
            refuse_unread(parser, given, parsed, places)
        except ArgumentError as err:
            said = refusal(str(err), content, places) or unknown_key(str(err), parser)
            raise ConfigError(said or useful(str(err))) from err
        check_classes(parsed)
        return parser.instantiate(parsed)


def class_of(path: str) -> type:
    """Import a class that a config names, after the same checks as in :func:`objects_of`.

    Raises:
        ForbiddenCode: If a config may not name it, it is not a class, or it does not exist.
    """
    check_names({"class_path": path})
    if said := no_such_class(path, object):
        raise ForbiddenCode(f"class_path is {path!r}{said}")
    check_classes({"class_path": path})
    found: type = object_of(path)
    return found
