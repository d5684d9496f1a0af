"""A trained run without a Trainer: its model with weights, and its tasks and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from crab_lightning.configuration.files import ConfigError, compose
from crab_lightning.data import AVDataModule
from crab_lightning.models import AVModule
from crab_lightning.runs.checkpoint_files import usable_checkpoint
from crab_lightning.runs.run_folder import find_checkpoint, find_run


def load_run(
    checkpoint: Path, config: str | None = None, device: str = "auto", *, trained: bool = True
) -> tuple[AVModule, AVDataModule]:
    """Load a run's model, ready to answer, and its data module, no manifest read.

    Args:
        checkpoint: A run folder, a ``.ckpt`` file or an adapter folder.
        config: Config file; the run's own ``config.yaml`` when left out.
        device: ``auto`` takes a GPU where there is one.
        trained: Load what the run has trained; else the model is as the run found it.

    Returns:
        The model in evaluation mode on its device, and the data module with the model's processor.

    Raises:
        ConfigError: If no config is given and none lies beside the checkpoint.
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If it is damaged and no earlier one can take its place.
        ValueError: If this machine has no such device.
    """
    device = device_of(device)
    found = find_checkpoint(checkpoint)
    if config is None:
        run = find_run(found)
        if run is None:
            raise ConfigError(f"{found} belongs to no run folder with a config.yaml; give --config as well")
        config = str(run / "config.yaml")
    content = compose([config])
    if missing := [name for name in ("model", "data") if name not in content]:
        raise ConfigError(f"{config} has no section {' and no '.join(missing)}")
    if not trained and isinstance(content.get("seed_everything"), int):
        torch.manual_seed(content["seed_everything"])
    model, data = _instantiate(content, found if found.is_dir() and trained else None)
    if model.adapter is not None:
        model.adapter = model.adapter.completed(None, list(data.tasks))  # as a run with a Trainer does
    model.configure_model()
    if found.is_file() and trained:
        state = torch.load(usable_checkpoint(found), map_location="cpu", weights_only=True)
        model.on_load_checkpoint(state)  # strict about the trained weights
        model.load_state_dict(state["state_dict"], strict=False)
    model.to(device).eval()
    data.processor = model.processor
    return model, data


def device_of(name: str) -> str:
    """Return the device that ``--device`` means.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ValueError(f"--device {name}: there is no such device; use cpu, cuda or cuda:1") from err
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        has = f"has CUDA devices 0 to {count - 1}" if count else "has no CUDA device; use --device cpu"
        raise ValueError(f"--device {name}: this machine {has}")
    return name


def _instantiate(content: dict[str, Any], adapter: Path | None) -> tuple[AVModule, AVDataModule]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AVModule, "model", fail_untyped=False, required=True)
    parser.add_class_arguments(AVDataModule, "data", fail_untyped=False)
    # A question may be put as any row of the config, also one that the run did not train on.
    parsed = parser.parse_object({"model": content["model"], "data": {**content["data"], "only": None}})
    if adapter is not None:
        parsed.model.init_args.load_adapter = str(adapter)
    made = parser.instantiate_classes(parsed)
    return made.model, made.data
