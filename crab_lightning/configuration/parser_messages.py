"""Error messages about a wrong key or value: its name, the most similar name, and where to look."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from crab_lightning.configuration.allowed_code import denied
from crab_lightning.configuration.files import ConfigError, naming_file
from crab_lightning.configuration.wrong_values import first_wrong
from crab_lightning.files import parsed_yaml
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec

# Messages about an unknown flag, an unknown section, and an unknown key in a section.
_UNKNOWN = re.compile(
    r"^unrecognized arguments: -*([^\s=]+)"
    r"|^Option '(.+?)' is not"
    r"|^Group '(\w+)' does not accept option '(.+?)'"
)
_UNKNOWN_OF_CLASS = re.compile(
    r"given class_path '(?P<of>\S+)':\s+(?:Option '(?P<key>.+?)' is not accepted|unrecognized arguments: -*"
    r"(?P<word>[^\s=]+)|Group '(?P<group>\w+)' does not accept option '(?P<part>.+?)')"
    r"|Option '(?P<argument>.+?)' is not accepted\. Got value: Namespace\(class_path='(?P<callable>[\w.]+)'"
)
_LACKING = re.compile(r"^the following arguments are required: (.+)")
_LACKING_OF_ROW = re.compile(r"DatasetSpec':\s+the following arguments are required: (.+)")

# Lines of jsonargparse about the types that it has tried. Other lines come from checks of this package.
_TRIED = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Problem with|Parser key|Given value|Expected an? "
    r"|Expected one of|Not a valid subclass|Subclass types expect|a class path \(str\)|a dict with"
)
_KEY = re.compile(r'^Parser key "(.+)":\s*')


def explained(message: str, parser: Any, words: Sequence[str], places: Mapping[str, Any]) -> str:
    """Return a short error message instead of a long one of jsonargparse.

    Args:
        message: The message of jsonargparse, which lists every type that it has tried.
        parser: The parser, which knows all keys.
        words: The command line that was parsed; at most one ``--config``, as text.
        places: The type of each section, see :func:`first_wrong`.
    """
    if said := refusal(message, content_of(words), places):
        return said
    if said := unknown_key(message, parser):
        return f"{said}; `python {parser.prog} --help` lists the keys"
    if found := _LACKING.search(message):
        if "--config" not in words:
            return _no_config(words, parser.prog, found[1])
        of_run = any(word.partition("=")[0] == "--ckpt_path" for word in words)
        return (
            f"the config has no {found[1]}; add it, or give a further --config that has it, such as demo.yaml"
            + (", or leave --config out to use the config of the run" if of_run else "")
        )
    return f"{useful(message)}\n`python {parser.prog} --help` says what each key takes"


def refusal(message: str, content: Mapping[str, Any], places: Mapping[str, Any]) -> str | None:
    """Return a clear error instead of a message of jsonargparse, or ``None`` if that message is clear.

    Args:
        message: The message of jsonargparse.
        content: The config that was parsed.
        places: The type of each section, see :func:`first_wrong`.
    """
    if said := denied(message) or first_wrong(content, places):
        return said
    if found := _UNKNOWN_OF_CLASS.search(message):
        place = found["of"] or found["callable"]
        module, _, kind = place.rpartition(".")
        class_ = getattr(import_module(module), kind)
        if group := found["group"]:  # a key whose value is a mapping with the fields of a dataclass
            name = f"{group}.{found['part']}"
            accepted = [f"{group}.{field.name}" for field in fields(get_type_hints(class_)[group])]
        else:
            taken = ArgumentParser().add_class_arguments(class_, fail_untyped=False)
            accepted = list(dict.fromkeys(key.partition(".")[0] for key in taken))
            name = found["key"] or found["word"] or found["argument"]
            name = name if name.partition(".")[0] in accepted else name.partition(".")[0]
        has = ", ".join(accepted) or "none"
        return f"{place} has no key '{name}'{_closest(name, accepted)}; it has: {has}"
    if _LACKING_OF_ROW.search(message):
        return _unknown_row((content.get("data") or content)["datasets"])
    return None


def unknown_key(message: str, parser: Any) -> str | None:
    """Return an error that names the unknown key of a message of jsonargparse, or ``None`` if it has none."""
    if not (found := _UNKNOWN.search(message)):
        return None
    name = ".".join(part for part in found.groups() if part)
    return f"there is no key '{name}'{_closest(name, list(parser.get_defaults().keys()))}"


def useful(message: str) -> str:
    """Return the lines of a parser's message that come from a check of this package, or else all lines."""
    if "Does not validate against" not in message:
        return _LACKING.sub(r"there is no \1; give it", _KEY.sub(r"\1: ", message))
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return "\n".join(dict.fromkeys(line for line in lines if line and not _TRIED.match(line))) or message


def refuse_unread(
    parser: ArgumentParser, content: Mapping[str, Any], parsed: Any, places: Mapping[str, Any]
) -> None:
    """Refuse what jsonargparse accepts in silence: empty mappings of unknown keys, and wrong empty values.

    Args:
        parser: The parser.
        content: The config that was parsed.
        parsed: The result of the parser.
        places: The type of each section, see :func:`first_wrong`.

    Raises:
        ArgumentError: If an unknown key has an empty mapping, which is dropped.
        ConfigError: If a value is null, an empty list, an empty text, zero or false, and has a wrong type.
    """
    if (marked := _marked(content, parsed.as_dict())) != content:
        parser.parse_object(marked)
    if said := first_wrong(_empty_values(content), places):
        raise ConfigError(said)


def _empty_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config that leads to null and other empty values, with the class paths there."""
    parts = {
        key: _empty_values(value) if isinstance(value, Mapping) else value for key, value in given.items()
    }
    kept = {key: part for key, part in parts.items() if bool(part) == isinstance(part, dict)}
    return {**kept, "class_path": given["class_path"]} if kept and "class_path" in given else kept


def _marked(given: Any, kept: Any) -> Any:
    """Return a config in which every mapping that the parser has dropped is a value, which it refuses."""
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [_marked(*pair) for pair in zip(given, kept, strict=True)]
    if not isinstance(given, Mapping) or not isinstance(kept, Mapping):
        return given
    kept = {"init_args": {}, **kept}
    return {
        key: _marked(value, kept[key]) if key in kept else False if isinstance(value, Mapping) else value
        for key, value in given.items()
    }


@contextmanager
def plainly(files: Sequence[str | Path]) -> Iterator[None]:
    """Shorten the message of a ``ValueError`` as :func:`useful` does, and name the config file.

    Args:
        files: The config files that were given, in order.

    Raises:
        ConfigError: Instead of a ``ValueError`` whose message was shortened.
    """
    with naming_file(files):
        try:
            yield
        except ValueError as err:
            if (said := useful(str(err))) == str(err):
                raise
            raise ConfigError(said) from err


def content_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the config of a command line, in which the values of its options are inserted."""
    rest = list(words)
    content: dict[str, Any] = {}
    if "--config" in rest:
        at = rest.index("--config")
        content = parsed_yaml(rest[at + 1]) or {}
        del rest[at : at + 2]
    for word, after in itertools.zip_longest(rest, rest[1:], fillvalue=""):
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or after):
            continue
        with suppress(yaml.YAMLError):
            value = parsed_yaml(value if equals else after)
        node, parts = content, key.removesuffix("+").split(".")
        for part in parts[:-1]:
            node = _child(_arguments(node, part), part)
        node, last = _arguments(node, parts[-1]), parts[-1]
        earlier = node.get(last) if key.endswith("+") else None
        node[last] = [*(earlier if isinstance(earlier, list) else ()), value] if key.endswith("+") else value
    return content


def _arguments(node: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping that contains a key of a class: its ``init_args``, which an option may leave out."""
    return (
        _child(node, "init_args") if "class_path" in node and key not in ("class_path", "init_args") else node
    )


def _child(node: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(node.get(key), dict):
        node[key] = {"class_path": node[key]} if isinstance(node.get(key), str) else {}
    child: dict[str, Any] = node[key]
    return child


def _unknown_row(datasets: Mapping[str, Any]) -> str | None:
    """Return an error that names a dataset without its required fields, as a misspelt key makes it."""
    needed = [
        field.name for field in fields(DatasetSpec) if MISSING is field.default is field.default_factory
    ]
    rows = {name: set(row or ()) for name, row in datasets.items()}
    known = [name for name, row in rows.items() if row.issuperset(needed)]
    lacking = [name for name in rows if name not in known]
    if not lacking:
        return None
    name = lacking[0]
    if not known:
        has = ", ".join(sorted(rows[name])) or "nothing"
        return f"data.datasets.{name} has no {' and '.join(needed)}; it has: {has}"
    return (
        f"there is no dataset '{name}' in data.datasets{_closest(name, known)}; there are:"
        f" {', '.join(known)}. A new one needs {' and '.join(needed)}"
    )


def _no_config(words: Sequence[str], prog: str, lacking: str) -> str:
    """Return an error that says how to give the settings that are missing without a config."""
    function = prog.rpartition(" ")[2]
    given = dict(itertools.pairwise(words))
    given |= {word.partition("=")[0]: word.partition("=")[2] for word in words if "=" in word}
    config = "--config demo.yaml (or another of configs/)"
    if path := given.get("--ckpt_path"):
        if Path(path).is_file() and Path(path).suffix != ".ckpt":
            return f"--ckpt_path {path}: this is neither a run folder nor a checkpoint"
        return f"--ckpt_path {path} belongs to no run folder with a config.yaml; give {config} too"
    if function == "fit":
        return f"fit has no {lacking}; give {config}"
    return f"{function} has no {lacking}; give --ckpt_path RUN, whose own config is used, or {config} as well"


def _closest(name: str, known: Iterable[str]) -> str:
    """Suggest a similar key at the level of the first wrong part, or else a key of this name elsewhere."""
    known = list(known)
    leaf = name.rpartition(".")[2]
    close = _closest_at_level(name, known) or [key for key in known if key.rpartition(".")[2] == leaf]
    return f" (did you mean '{close[0]}'?)" if close else did_you_mean(name, known)


def _closest_at_level(name: str, known: Sequence[str]) -> list[str]:
    above = ""
    for part in name.split("."):
        level = dict.fromkeys(k[len(above) :].partition(".")[0] for k in known if k.startswith(above))
        if part not in level:
            rest = name[len(above) + len(part) :]
            found = [above + like for like in get_close_matches(part, level, 1)]
            return [key + rest if key + rest in known else key for key in found]
        above += f"{part}."
    return []
