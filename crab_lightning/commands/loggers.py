"""Let the loggers of a run write into the run folder, unless the user names another folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import loggers as known_loggers

from crab_lightning.files import parsed_yaml

_HERE = "RUN_FOLDER"
"""Stands for the run folder until it is known."""


def with_save_dir(words: Sequence[str]) -> list[str]:
    """Return a command line in which every logger that needs a ``save_dir`` has one.

    ``CSVLogger`` and ``TensorBoardLogger`` cannot be made without ``save_dir``. If the user gives none, a
    word that stands for the run folder is inserted.

    Args:
        words: Words of the command line; at most one ``--config``, as text.
    """
    out: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        out.append(word)
        if option == "--config" and rest:
            out.append(_config_with_save_dir(rest.pop(0)))
        elif option in ("--trainer.logger", "--trainer.logger+"):
            if not equals and rest:
                value = rest.pop(0)
                out.append(value)
            if value.startswith(("[", "{")):  # written out in YAML or JSON
                out[-1] = (f"{option}=" if equals else "") + json.dumps(_placed(yaml.safe_load(value)))
            elif _needs_save_dir(value):
                out.append(f"--trainer.logger.init_args.save_dir={_HERE}")
    return out


def place_loggers(trainer: Any, folder: Path) -> None:
    """Let the loggers of a parsed ``trainer`` section write below a folder, unless the user names another.

    Args:
        trainer: The section, which is changed in place.
        folder: The run folder.
    """
    found: Any = trainer.get("logger")
    several: list[Any] = found if isinstance(found, list) else [found]
    for logger in several:
        if not hasattr(logger, "get") or "class_path" not in logger:
            continue
        kind = _kind(logger["class_path"])
        parameter = None if kind is None else inspect.signature(kind).parameters.get("save_dir")
        init: Any = logger.get("init_args")
        if parameter is None or not init or init.get("tracking_uri"):
            continue
        # By default, a logger writes into the current folder or a folder in it.
        if init.get("save_dir") in (_HERE, None, parameter.default):
            below = "mlruns" if kind is known_loggers.MLFlowLogger else ""
            init.save_dir = str(folder / below)


def _config_with_save_dir(text: str) -> str:
    content = parsed_yaml(text)
    trainer: Any = content.get("trainer") if isinstance(content, dict) else None
    found = trainer.get("logger") if isinstance(trainer, dict) else None
    if not found or isinstance(found, bool):
        return text
    trainer["logger"] = _placed(found)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _placed(found: Any) -> Any:
    return [_with_save_dir(one) for one in found] if isinstance(found, list) else _with_save_dir(found)


def _with_save_dir(logger: Any) -> Any:
    entry = {"class_path": logger} if isinstance(logger, str) else logger
    if not isinstance(entry, dict) or not _needs_save_dir(str(entry.get("class_path"))):
        return logger
    return {**entry, "init_args": {"save_dir": _HERE, **(entry.get("init_args") or {})}}


def _needs_save_dir(name: str) -> bool:
    kind = _kind(name)
    parameter = None if kind is None else inspect.signature(kind).parameters.get("save_dir")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _kind(name: str) -> Any:
    """Return the logger class of Lightning with this name or class path, or ``None`` for any other class."""
    return getattr(known_loggers, name.rpartition(".")[2], None)
