"""The data of a finished run, from its own config, without its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crab_lightning.configuration.files import ConfigError, compose
from crab_lightning.configuration.sections import data_module
from crab_lightning.data import AVDataModule


def data_of(run: Path, datasets: Sequence[str] | None = None) -> AVDataModule:
    """Return the data module of a run, its manifests read.

    Args:
        run: A run folder with ``config.yaml``.
        datasets: The datasets to read; left out, those of the run.

    Raises:
        ConfigError: If the folder has no config, or the config no data.
        FileNotFoundError: If the manifests are gone.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run} has no config.yaml")
    section = compose([path], of_run=True).get("data")
    if not isinstance(section, dict):
        raise ConfigError(f"{path} has no section data")
    if datasets is not None:
        section = section | {"only": list(datasets)}
    data = data_module(section, [path])
    data.setup()
    return data
