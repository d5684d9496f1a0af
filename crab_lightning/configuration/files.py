"""Reads config files, with their includes, and merges them before the parser sees them.

jsonargparse replaces a whole dictionary when a second config names it: a second config with one dataset would
drop the other eighteen without a message. The files are merged here instead, with these rules:

- ``--config omni.yaml`` is searched in ``configs/`` of the current folder, in the shipped ``configs/``, and
  then as a path.
- A top-level section that is a text ending in ``.yaml`` (``trainer: trainer/cpu.yaml``) is read from that
  file.
- ``include: part.yaml`` (or a list) in any mapping inserts the keys of that file. Keys next to it take
  precedence.
- Included paths are relative to the including file, or else to the shipped configs.
- Mappings are merged key by key; any other value is replaced. A mapping with another ``class_path`` replaces
  the whole mapping, because the arguments of one class have no meaning for another.
- OmegaConf fills in ``${section.key}`` and ``${oc.env:NAME}`` after the merge, except in the config of a run,
  which is complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from crab_lightning.files import decimal_number, refuse_repeated_keys

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configs lie inside the package (setup.py), in a checkout next to it.
PACKAGE_CONFIGS = _PACKAGE / "configs"
if not PACKAGE_CONFIGS.is_dir():
    PACKAGE_CONFIGS = _PACKAGE.parent / "configs"
_ROOTS = {"crab_lightning": _PACKAGE, "configs": PACKAGE_CONFIGS}

_SUFFIXES = (".yaml", ".yml")


class ConfigError(ValueError):
    """A config that is missing, cannot be read, or has a wrong key or value."""


# Limits far above any config. A larger file is a mistake, or was made to use up time and memory.
_MOST_BYTES = 2**19
_MOST_VALUES = 200_000
_MOST_LEVELS = 60
_MOST_FILES = 300
_MOST_FILLED = 2**20
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_NOT_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "timestamp")}


class _Loader(yaml.SafeLoader):
    """Reads ``1e-4`` as a number and every key as a text, and refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                said = "a key must be a name; to take values from another place, use `include`"
                raise yaml.constructor.ConstructorError(None, None, said, key_node.start_mark)
            if key_node.tag in _NOT_TEXT:
                key_node.tag = "tag:yaml.org,2002:str"  # every key is a name: `on: {...}` may be a dataset
        refuse_repeated_keys(self, node)
        return super().construct_mapping(node, deep=deep)


for kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", decimal_number)
# YAML 1.1 needs a dot and a sign in a float; without this, `lr: 1e-4` would be a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def find_config(name: str | Path) -> Path:
    """Return the file that ``--config NAME`` means.

    Args:
        name: A bare file name, which is searched in ``configs/`` first, or any path.

    Raises:
        ConfigError: If there is no such file. The message lists the files in ``configs/``.
    """
    path = Path(name)
    if not str(name):
        raise ConfigError("the name of the config is empty; give a file, or the name of one of configs/")
    if "://" in str(name):
        raise ConfigError(f"config {name} is an address; download the file first, and give its path")
    roots = [Path("configs"), PACKAGE_CONFIGS]
    if roots[0].resolve() == PACKAGE_CONFIGS:  # called in a checkout
        roots.pop()
    # The text is examined, because Path("./mine.yaml") has only one part and is still a path.
    bare = not {"/", os.sep} & set(str(name))
    inside = [root / path for root in roots]
    places = [*inside, path] if bare else [path, *inside]
    for place in places:
        if place.is_file():
            return place
    if path.is_dir():
        raise ConfigError(f"config {name} is a folder; give one .yaml file of it")
    if path.exists():
        raise ConfigError(f"config {name} is no regular file; write its content to a .yaml file")
    known = sorted({p.name for root in roots if root.is_dir() for p in root.glob("*.yaml")})
    looked = ", ".join(dict.fromkeys(str(place.parent) for place in places))
    raise ConfigError(
        f"config {name}: no such file in {looked}; configs/ has: {', '.join(known) or 'nothing'}"
    )


def compose(names: Sequence[str | Path], *, of_run: bool = False) -> dict[str, Any]:
    """Load config files with all files that they include. Later files take precedence over earlier ones.

    Args:
        names: The values of ``--config``, in order.
        of_run: Whether the config comes from a run folder. Such a config is complete, so ``${...}`` in it
            stays a text: a run folder of another person must not read environment variables.

    Returns:
        The merged config, as plain dictionaries and lists.

    Raises:
        ConfigError: If a file is missing, malformed or includes itself, a section is no mapping, or an
            interpolation has no value.
    """
    merged: dict[str, Any] = {}
    read: list[Path] = []
    for name in names:
        merged = merge(merged, _load(find_config(name), (), read))
    with naming_file(names):
        _check_sections(merged)
    return merged if of_run else _interpolate(merged)


SECTIONS = ("model", "data", "trainer", "run", "evaluator", "nonfinite", "checkpoint")
"""Keys of a config whose values are mappings."""


def _check_sections(content: Mapping[str, Any]) -> None:
    """Refuse a section that is no mapping, such as one whose keys are all comments; ``null`` is none."""
    for key in SECTIONS:
        section = content.get(key, {})
        if isinstance(section, dict):
            key, section = f"{key}.init_args", section.get("init_args", {})
        elif isinstance(section, str) and key in ("model", "data"):
            continue  # the name of a class
        if not isinstance(section, dict):
            raise ConfigError(f"{key} is {section!r}; it must be a mapping, such as {{key: value}}")


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return ``below`` merged with ``above``, whose values take precedence; neither is changed."""
    if "class_path" in above and above["class_path"] != below.get("class_path"):
        return dict(above)
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def flat_keys(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the dotted keys and the values of nested mappings; an empty mapping is a value."""
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += flat_keys(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values, up to a limited size.

    Args:
        path: An existing file.

    Raises:
        ConfigError: If the file is not YAML in UTF-8, or exceeds the limits on its size, depth and number of
            values (with its aliases written out).
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ConfigError(f"{path}: has {size:,} bytes; a config has at most {_MOST_BYTES:,}")
    try:
        # This is a local file, and the loader is derived from SafeLoader.
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
        values = _count(content, {}, 0)
    except RecursionError as err:
        raise ConfigError(f"{path}: is nested more than {_MOST_LEVELS} levels deep") from err
    except UnicodeDecodeError as err:
        raise ConfigError(
            f"{path}: is not UTF-8 (byte {err.object[err.start]:#04x}); save it as UTF-8"
        ) from err
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        hint = "; YAML is indented with spaces" if "'\\t'" in str(err.problem) else ""
        raise ConfigError(f"{path}{place}: not readable as YAML: {err.problem}{hint}") from err
    except (yaml.YAMLError, ValueError) as err:  # ValueError: a date that does not exist
        raise ConfigError(f"{path}: not readable as YAML: {err}") from err
    if values > _MOST_VALUES:
        raise ConfigError(
            f"{path}: with its aliases it has {values:,} values; a config has at most {_MOST_VALUES:,}"
        )
    return content


@contextmanager
def naming_file(names: Sequence[str | Path]) -> Iterator[None]:
    """Add the name of the config file to a ``ValueError`` about one of its values.

    Args:
        names: The values of ``--config``, in order.
    """
    try:
        yield
    except ValueError as err:
        err.args = (in_file(str(err), names), *err.args[1:])
        raise


_KEYS = re.compile(
    r"there is no key '(?P<path>[\w.]+)'|.*? has no key '(?P<key>[\w.]+)'"
    r"|there is no dataset '(?P<row>\w+)' in|(?P<there>[\w.]+) has no |(?P<set>[\w.]+)(?: is |: | names )"
)


def in_file(said: str, names: Sequence[str | Path]) -> str:
    """Return an error message with the name of the config file in front that has the key and value of it."""
    found = _KEYS.match(said)
    if found is None:
        return said
    wanted = [part for part in str(found[found.lastgroup or 0]).split(".") if part != "init_args"]
    wanted = wanted if found["path"] else wanted[-2:]
    value = re.split(r"; | \(did you mean", said)[0] if found["set"] else None
    for name in reversed(names):
        read: list[Path] = []
        with suppress(ConfigError):
            _load(find_config(name), (), read)
        for path in (*read[:1], *reversed(read[1:])):  # files that take precedence come first
            if _has(read_yaml(path), wanted, value):
                return f"{path}: {said}"
    return said


def _has(node: Any, wanted: list[str], value: str | None, above: tuple[str, ...] = ()) -> bool:
    """Return whether a node contains the wanted key with a value that the text ``value`` names."""
    ends = list(above[-len(wanted) :])
    if value is None:
        found = ends == wanted and (len(wanted) > 1 or not wanted[0].isdecimal())
    else:  # a section may be a separate file, in which the key has no section above it
        texts = [re.escape(str(one)) for one in (node if isinstance(node, list) else [node])]
        found = bool(ends) and ends == wanted[-len(ends) :]
        found = found and any(re.search(rf"(?<![\w.]){text}(?![\w.])", value) for text in texts)
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return found or any(
        _has(child, wanted, value, above if key == "init_args" else (*above, str(key)))
        for key, child in below
    )


def _count(node: Any, known: dict[int, int], level: int) -> int:
    """Count the values of a config as if its aliases were written out, but visit each alias only once.

    Raises:
        RecursionError: If the config is nested too deeply, or contains itself.
    """
    if not isinstance(node, (dict, list)):
        return 1
    if level > _MOST_LEVELS:
        raise RecursionError
    if id(node) not in known:
        children = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_count(child, known, level + 1) for child in children)
    return known[id(node)]


def _load(path: Path, above: tuple[Path, ...], read: list[Path]) -> dict[str, Any]:
    """Read a file and its includes; ``above`` are the files that include it, ``read`` all files so far."""
    real = path.resolve()
    read.append(real)
    if len(read) > _MOST_FILES:
        raise ConfigError(f"{read[0]}: includes more than {_MOST_FILES} files, {path} among them")
    if real in above:
        route = " -> ".join(p.name for p in (*above, real))
        raise ConfigError(f"{path}: a config includes itself: {route}")
    if not path.is_file():
        raise ConfigError(f"{above[-1] if above else path}: includes {path}, which does not exist")
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: contains a {type(content).__name__}; a config is a mapping of sections")
    chain = (*above, real)
    for key, value in content.items():
        if isinstance(value, str) and value.endswith(_SUFFIXES) and key != "include":
            content[key] = _load(_part(path, value), chain, read)
    expanded = _expand(content, path, chain, read)
    assert isinstance(expanded, dict)
    return expanded


def _part(path: Path, name: str) -> Path:
    """Return the path of an included file: next to the including file, or else among the shipped configs."""
    beside, shipped = path.parent / name, PACKAGE_CONFIGS / name
    return shipped if not beside.is_file() and shipped.is_file() else beside


def found_path(value: str) -> str:
    """Return a path in a config as an absolute path, so that it can be found from every folder.

    If the path does not exist, it is searched in the installed package, which contains the mini models as
    ``crab_lightning/assets`` and the configs as ``configs``. If it is not there either, it may be a hub name
    and is returned unchanged.

    Args:
        value: A path, absolute, relative to the current folder or beginning with ``~``, or a hub name.
    """
    value = str(Path(value).expanduser()) if value.startswith("~") else value
    if Path(value).exists():
        return str(Path(value).absolute())
    first, _, rest = value.partition("/")
    shipped = _ROOTS[first] / rest if first in _ROOTS and rest else None
    return str(shipped) if shipped is not None and shipped.exists() else value


def portable_path(value: str) -> str | None:
    """Return a path inside this package in a form for every machine; ``None`` for any other path."""
    for first, root in _ROOTS.items():
        if Path(value).is_relative_to(root):
            return str(Path(first) / Path(value).relative_to(root))
    return None


def _expand(node: Any, path: Path, chain: tuple[Path, ...], read: list[Path]) -> Any:
    """Replace every ``include`` key below ``node`` with the contents of its files."""
    if isinstance(node, list):
        return [_expand(item, path, chain, read) for item in node]
    if not isinstance(node, dict):
        return node
    own = {key: _expand(value, path, chain, read) for key, value in node.items() if key != "include"}
    if "include" not in node:
        return own
    parts = node["include"] if isinstance(node["include"], list) else [node["include"]]
    base: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, str):
            raise ConfigError(
                f"{path}: include is {part!r}; give a path relative to this file, or a list of them"
            )
        base = merge(base, _load(_part(path, part), chain, read))
    return merge(base, own)


def _interpolate(config: dict[str, Any]) -> dict[str, Any]:
    if "${" not in str(config):
        return config
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        length = _filled(config, config, {}, ())
    except RecursionError as err:
        raise ConfigError("config interpolation: the references refer to each other in a circle") from err
    if length > _MOST_FILLED:
        raise ConfigError(
            f"config interpolation: the config has {length:,} characters with its references filled in; at "
            f"most {_MOST_FILLED:,} are allowed"
        )
    try:
        filled = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as err:
        said = str(err).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ")
        raise ConfigError(f"{err.full_key or 'config'} cannot be filled in: {said}") from err
    assert isinstance(filled, dict)
    return {str(key): value for key, value in filled.items()}


def _filled(node: Any, config: dict[str, Any], known: dict[str, int], above: tuple[str, ...]) -> int:
    """Count the characters of a node with every ``${section.key}`` in it filled in."""
    if isinstance(node, (dict, list)):
        children = node.values() if isinstance(node, dict) else node
        return sum(_filled(child, config, known, above) for child in children)
    text = str(node)
    length = len(text)
    for key in _REFERENCE.findall(text):
        if key in above:
            continue  # a circle, which OmegaConf reports
        if key not in known:
            found: Any = config
            for part in key.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            known[key] = _filled(found, config, known, (*above, key))
        length += known[key]
    return length
