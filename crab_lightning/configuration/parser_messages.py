"""What the command line says about a wrong key or value: its name, what comes closest, and where to look."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from crab_lightning.configuration.allowed_code import denied
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec

# Of a flag, of a section, and of a key inside a section.
_UNKNOWN = re.compile(
    r"^unrecognized arguments: -*([^\s=]+)"
    r"|^Option '(.+?)' is not"
    r"|^Group '(\w+)' does not accept option '(.+?)'"
)
_UNKNOWN_OF_CLASS = re.compile(
    r"given class_path '(\S+)':\s+(?:Option '(.+?)' is not accepted|unrecognized arguments: -*([^\s=]+))"
)
_LACKING = re.compile(r"^the following arguments are required: (.+)")
_LACKING_OF_ROW = re.compile(r"DatasetSpec':\s+the following arguments are required: (.+)")
_ROWS = "data.datasets."

# Lines of jsonargparse about the types that it has tried and the object that it has tried them with.
_TRIED = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Problem with")
_KEY = re.compile(r'Parser key "(.+)":')
_WRONG_TYPE = re.compile(r"Expected (?:a )?(?:<class ')?([\w.]+(?:\[.*?\])?)(?:'>)?\. Got value: (.*)")
# Of a class that is called later, such as the optimizer: the inner key, the outer one, and what was given.
_OF_CALLABLE = re.compile(
    r'callable class: Parser key "([^"]+)":.*?^(\S+): Expected (\w+)\. Got value: (.+?)\. Got',
    re.DOTALL | re.MULTILINE,
)
_GIVEN = re.compile(r"Given value: (.*)")
_GOT = re.compile(r"\. Got value: ")
# Where a section of keys, or a class, is wanted and something else was given.
_NO_PATH = re.compile(r"Expected a path but (.*) either not accessible or invalid")
_NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_NO_SECTION = re.compile(r'Parser key "([^"]+)": Unable to load config "(.*)"')
_SECTION = "Expected a mapping, such as {key: value}"


def explained(message: str, parser: Any, words: Sequence[str] = ()) -> str:
    """Return what a user can act on in a parser's message.

    Args:
        message: Of jsonargparse, which lists every type that it has tried.
        parser: Knows the keys.
        words: The command line that was parsed; at most one ``--config``, as text.
    """
    if refused := denied(message):
        return refused
    if found := _UNKNOWN_OF_CLASS.search(message):
        place = found[1]
        module, _, kind = place.rpartition(".")
        taken = ArgumentParser().add_class_arguments(getattr(import_module(module), kind), fail_untyped=False)
        accepted = list(dict.fromkeys(key.partition(".")[0] for key in taken))
        name = found[2] or found[3]
        name = name if name.partition(".")[0] in accepted else name.partition(".")[0]
        return f"{place} has no key '{name}'{_closest(name, accepted)}; it has: {', '.join(accepted)}"
    if found := _UNKNOWN.search(message):
        name = ".".join(part for part in found.groups() if part)
        known = list(parser.get_defaults().keys())
        return (
            f"there is no key '{name}'{_closest(name, known)}; `python {parser.prog} --help` lists the keys"
        )
    if (found := _LACKING_OF_ROW.search(message)) and (said := _unknown_row(words)):
        return said
    if (found := _LACKING.search(message)) and "--config" not in words:
        return _no_config(words, parser.prog, found[1])
    said = useful(message)
    if "adapter.kind: Expected" in said:
        said += ". If another package adds this kind, install that package in this environment"
    return f"{said}\n`python {parser.prog} --help` says what each key takes"


def useful(message: str) -> str:
    """Return the lines of a parser's message that say what is wrong, each behind the key that it is about.

    Args:
        message: Of jsonargparse; returned as it is where it has not tried several types.
    """
    if found := _NO_SECTION.search(message):
        return f"{found[1]}: {_SECTION}. Got value: {found[2]}"
    plainly = "Does not validate against" not in message
    if plainly and (key := _KEY.search(message)) and (found := _NO_CLASS.search(message)):
        return f"{key[1]}: {_SECTION}, or a class path. Got value: {found[1]}"
    if plainly and (key := _KEY.search(message)) and (found := _WRONG_TYPE.search(message)):
        wanted = found[1].replace("typing.Literal", "one of ")
        return f"{key[1]}: Expected {wanted}. Got value: {found[2]}"
    if plainly:
        return message
    path: list[tuple[int, str]] = []
    kept: list[str] = []
    given = ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        depth = len(line) - len(line.lstrip())
        if found := _KEY.match(text):
            path = [*((at, key) for at, key in path if at < depth), (depth, found[1])]
        elif found := _GIVEN.match(text):
            given = given or found[1]  # the innermost comes first
        elif text and not _TRIED.match(text) and not text.startswith("Given value type:"):
            where = ".".join(key for at, key in path if at < depth).replace(_ROWS, f"{_ROWS}ROW.")
            if _NO_PATH.match(text):
                continue  # a value may also be the path of a file that holds it, which nobody means here
            text = _NO_CLASS.sub(f"{_SECTION}, or a class path", text)
            # A check of our own names its key itself.
            kept.append(f"{where}: {text}" if where and text.startswith("Expected a") else text)
    kept = [
        line if _GOT.search(line) or "Expected a" not in line else f"{line}. Got value: {given}"
        for line in kept
    ]
    plain = "\n".join(dict.fromkeys(kept)).replace("Expected a typing.Literal", "Expected one of ")
    plain = re.sub(r"a <class '(?:\w+\.)*(\w+)'>", r"\1", plain)
    if found := _OF_CALLABLE.search(plain):
        return f"{found[2]}.{found[1]}: Expected {found[3]}. Got value: {found[4]}"
    return plain or message


def _unknown_row(words: Sequence[str]) -> str | None:
    """Name the dataset rows that lack a field they need, which a misspelt key makes."""
    needed = [
        field.name for field in fields(DatasetSpec) if MISSING is field.default is field.default_factory
    ]
    rows: dict[str, set[str]] = {}
    if "--config" in words:
        data = (yaml.safe_load(words[words.index("--config") + 1]) or {}).get("data") or {}
        rows = {name: set(row or ()) for name, row in (data.get("datasets") or {}).items()}
    for word in words:
        name, _, key = word.partition("=")[0].removeprefix("--").removeprefix(_ROWS).partition(".")
        if word.startswith(f"--{_ROWS}") and key:
            rows.setdefault(name, set()).add(key)
    known = [name for name, row in rows.items() if row.issuperset(needed)]
    lacking = [name for name in rows if name not in known]
    if not lacking:
        return None
    name = lacking[0]
    return (
        f"there is no dataset '{name}' in data.datasets{_closest(name, known)}; there are:"
        f" {', '.join(known)}. A new one needs {' and '.join(needed)}"
    )


def _no_config(words: Sequence[str], prog: str, lacking: str) -> str:
    """Say how to give what a run needs and no config gave."""
    function = prog.rpartition(" ")[2]
    given = dict(itertools.pairwise(words))
    given |= {word.partition("=")[0]: word.partition("=")[2] for word in words if "=" in word}
    config = "--config demo.yaml (or another of configs/)"
    if path := given.get("--ckpt_path"):
        if Path(path).is_file() and Path(path).suffix != ".ckpt":
            return f"--ckpt_path {path}: this is no run folder and no checkpoint"
        return f"--ckpt_path {path} belongs to no run folder with a config.yaml; give {config} too"
    if function == "fit":
        return f"fit has no {lacking}; give {config}"
    return f"{function} has no {lacking}; give --ckpt_path RUN, whose own config is used, or {config} as well"


def _closest(name: str, known: Iterable[str]) -> str:
    """Suggest what comes closest to the first part that differs, at its level; else that key elsewhere."""
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
