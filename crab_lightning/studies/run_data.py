"""Load the data of a finished run from the config of the run, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crab_lightning.configuration.files import ConfigError, compose
from crab_lightning.configuration.sections import data_module
from crab_lightning.data import AVDataModule


def data_of(run: Path, datasets: Sequence[str] | None = None) -> AVDataModule:
    """Return the data module of a run after reading its manifests.

    Args:
        run: A run folder with ``config.yaml``.
        datasets: Keys of the datasets to read; by default, the datasets of the run.

    Raises:
        ConfigError: If the folder has no ``config.yaml``, or if the config has no section ``data`` or a wrong
            one.
        ManifestError: If a manifest is missing or cannot be read.
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
