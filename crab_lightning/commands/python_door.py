"""``fit`` and ``run_test`` as Python functions: the commands ``fit`` and ``test``, with exceptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crab_lightning.commands.trainer import command_line
from crab_lightning.configuration.files import ConfigError
from crab_lightning.files import read_json


def fit(
    config: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    folder: str | Path | None = None,
    only: str | None = None,
) -> Path:
    """Train as ``cli.py fit`` does and return the run folder, which ``load_run`` reads.

    Args:
        config: Config file, or the name of one of ``configs/``.
        settings: Keys that win over the config, by their dotted name: ``{"trainer.max_epochs": 3}``.
        folder: Run folder; a new one under ``runs/`` when left out.
        only: Keys of the datasets to use, comma-separated.

    Raises:
        ConfigError: If a key or value is wrong.
    """
    more = {"run.folder": folder, "only": only}
    chosen = {key: value for key, value in more.items() if value is not None}
    return _run("fit", ["--config", str(config)], dict(settings or {}) | chosen)


def run_test(run: str | Path, settings: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Answer the test splits with a run, score the answers and write both into its folder (``cli.py test``).

    Args:
        run: A run folder, a ``.ckpt`` file or an adapter folder.
        settings: Keys that win over the run's config: ``{"evaluator.decoding": "both"}``.

    Returns:
        Dataset -> its entry of ``metrics.json``: ``headline`` names the first metric, ``strict`` holds the
        scores.

    Raises:
        ConfigError: If a key or value is wrong.
        FileNotFoundError: If there is no such run.
    """
    folder = _run("test", ["--ckpt_path", str(run)], dict(settings or {}))
    content = read_json(folder / "metrics.json", "Test the run again")
    found: dict[str, dict[str, Any]] = content["test"]["datasets"]
    return found


def _run(function: str, source: list[str], settings: Mapping[str, Any]) -> Path:
    words = [f"--{key}={_word(value)}" for key, value in settings.items()]
    made = command_line(function, [*source, *words], refuse=_refuse)
    made.start()
    return Path(made.trainer.log_dir or "")


def _refuse(cli: Any, said: str) -> None:
    """Raise what a command line prints."""
    raise ConfigError(said)


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
