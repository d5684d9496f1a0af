"""The functions ``fit`` and ``run_test``: the commands ``fit`` and ``test`` for Python, with exceptions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from crab_lightning.commands.trainer import command_line
from crab_lightning.configuration.files import ConfigError
from crab_lightning.files import path_given, read_json


def fit(
    config: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    folder: str | Path | None = None,
    only: str | Sequence[str] | None = None,
) -> Path:
    """Train as ``cli.py fit`` does.

    Args:
        config: Path of a config file, or the name of a file in ``configs/``.
        settings: Values that replace those of the config, by dotted key: ``{"trainer.max_epochs": 3}``.
        folder: Run folder. By default, a new folder under ``runs/`` is made.
        only: Keys of the datasets to use, as a list or as a text with commas.

    Returns:
        The run folder, which ``load_run`` reads.

    Raises:
        ConfigError: If a key or value is wrong.
    """
    if only is not None and not isinstance(only, str):
        only = ",".join(map(str, only))
    options: dict[str, object] = {
        "config": path_given("config", config, "the name or the path of a config file"),
        "run.folder": _OUT if folder is None else path_given("folder", folder, "a path"),
        "only": _OUT if only is None else only,
    }
    return _run("fit", options, settings)


def run_test(run: str | Path, settings: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Answer the test splits with a run, score the answers and write both into its folder (``cli.py test``).

    Args:
        run: A run folder, a ``.ckpt`` file or an adapter folder.
        settings: Values that replace those of the run's config: ``{"evaluator.decoding": "both"}``.

    Returns:
        The entry of ``metrics.json`` for each dataset: ``headline`` names the primary metric, and ``strict``
        contains the scores.

    Raises:
        ConfigError: If a key or value is wrong.
        FileNotFoundError: If there is no such run.
    """
    folder = _run("test", {"ckpt_path": path_given("run", run, "a run folder or a checkpoint")}, settings)
    content = read_json(folder / "metrics.json", "Test the run again", "test")
    found: dict[str, dict[str, Any]] = content["test"]["datasets"]
    return found


def _run(function: str, options: Mapping[str, object], settings: Mapping[str, Any] | None) -> Path:
    given = {} if settings is None else settings
    if not isinstance(given, Mapping):
        raise ConfigError(f"`settings` is {given!r}; give a dictionary such as {_EXAMPLE}")
    for key in given:
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key in ("config", "help", "print_config"):
            raise ConfigError(f"`settings` has the key {key!r}; give keys of a config, as in {_EXAMPLE}")
    words = [
        f"--{key}={_word(key, value)}" for key, value in {**given, **options}.items() if value is not _OUT
    ]
    try:
        made = command_line(function, words, refuse=_refuse)
        made.start()
    except (ValueError, OSError) as err:
        if len(err.args) == 1:  # a message of this package, not of the operating system
            err.args = (_OPTION.sub(lambda found: _python_name(function, *found.groups()), str(err)),)
        raise
    return Path(made.run_folder)


_OUT = object()  # an argument that was left out
_EXAMPLE = "{'trainer.max_epochs': 3}"
_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*\+?")
_OPTION = re.compile(
    r"[;\n]? ?`python \S+ \w+ --help` [\w ]+|--([a-z]\w*(?:\.\w+)*)(?: (true|false|auto|\d+)\b)?"
)
_ARGUMENTS = {
    "fit": {"config": "config", "run.folder": "folder", "only": "only"},
    "test": {"ckpt_path": "run"},
}


def _python_name(function: str, key: str | None, value: str | None) -> str:
    """Return the Python name of an option in an error message, or an empty text for a hint to ``--help``."""
    if key is None:
        return ""
    if key in _ARGUMENTS[function]:
        return f"`{_ARGUMENTS[function][key]}`" + (f" {value}" if value else "")
    word = {"true": True, "false": False}.get(str(value), value)
    return f"`settings` {{{key!r}: {'...' if value is None else repr(word)}}}"


def _refuse(cli: Any, said: str) -> None:
    """Raise the message that the command line would print."""
    raise ConfigError(said)


def _word(key: str, value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value}".replace(".-", "-.")  # as YAML writes it
    try:
        return str(value) if isinstance(value, str | Path) else json.dumps(value, default=_plain)
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"`settings` has {value!r} for {key!r}; give a text, a path, a number, True, False, None, or a"
            " list or dictionary of such values"
        ) from err


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError
