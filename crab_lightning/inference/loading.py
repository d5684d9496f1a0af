"""Loads a trained run without a Trainer: the model with its weights, and the tasks and datasets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crab_lightning.adapters.kinds import drop_foreign_keys, load_installed_kinds
from crab_lightning.configuration.allowed_code import without_training
from crab_lightning.configuration.files import ConfigError, compose, naming_file
from crab_lightning.configuration.objects import objects_of
from crab_lightning.configuration.sections import data_module, data_section, find_paths
from crab_lightning.data import AVDataModule
from crab_lightning.data.manifests.keys import chosen_datasets
from crab_lightning.files import path_given
from crab_lightning.inference.answer import Answer, ask_once, ask_windows
from crab_lightning.inference.question import Question
from crab_lightning.models import AVModule
from crab_lightning.program import start_is_over
from crab_lightning.runs.checkpoint_files import usable_checkpoint
from crab_lightning.runs.run_folder import find_checkpoint, find_run
from crab_lightning.structures import Windows
from crab_lightning.tensor_files import read_tensors
from crab_lightning.value_types import check_arguments

Files = str | Path | Sequence[str | Path]


class TrainedRun(NamedTuple):
    """A trained run, ready to be asked.

    Args:
        model: The model, in evaluation mode and on its device.
        data: Tasks and datasets, with the processor of the model. No manifest is read.
    """

    model: AVModule
    data: AVDataModule

    def __repr__(self) -> str:
        return f"TrainedRun({type(self.model).__name__}, trained on {', '.join(self.data.taught)})"

    def ask(
        self,
        task: str,
        *,
        video: Files = (),
        audio: Files = (),
        image: str | Path | None = None,
        question: str | None = None,
        options: Sequence[str] | None = None,
        expression: str | None = None,
        dataset: str | None = None,
        at_s: float | None = None,
        silent: bool = False,
        untaught: bool = False,
        windows: Windows | None = None,
    ) -> Answer:
        """Ask one question about a clip, which is prepared as in training.

        Args:
            task: Key of a task or dataset of the run, the start of a task's key, or the initials of a task
                (``qa``).
            video: A video file, or two if the task compares videos.
            audio: A sound file, or two. By default, the sound of the videos is used.
            image: Picture for an image task. By default, a frame of the video is used.
            question: Question to be answered.
            options: Answers to choose from.
            expression: Name of the object that a referring task has to find.
            dataset: Dataset whose frames, audio window and classes are used. By default, the first that fits.
            at_s: Second of the clip that an image task looks at. By default, the middle of the clip.
            silent: Replace all sound with silence.
            untaught: Also allow tasks and datasets on which the run was not trained.
            windows: Ask about a long clip in windows, for tasks that name events with their times.

        Raises:
            AskError: If the task needs something that was not given, does not accept something that was
                given, or is one on which the run was not trained.
            ValueError: If an argument has a wrong type.
            FileNotFoundError: If a file does not exist.
            MediaError: If a file cannot be read.
        """
        videos, audios = _paths("video", video), _paths("audio", audio)
        check_arguments(TrainedRun.ask, locals(), "")
        given = {"question": question, "options": options, "expression": expression}
        texts: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if options is not None:
            texts["options"] = list(options)
        picture = None if image is None else Path(image)
        asked = Question(task, videos, audios, picture, texts, dataset, at_s, silent, untaught)
        return self.put(asked, windows)

    def put(self, question: Question, windows: Windows | None = None) -> Answer:
        """Ask a question that is given as an object; :meth:`ask` makes it from its arguments.

        Args:
            question: The question.
            windows: As for :meth:`ask`.

        Raises:
            AskError: As :meth:`ask` does, which also raises the other errors of this method.
        """
        with tempfile.TemporaryDirectory() as scratch:
            sample = question.sample(self.data, Path(scratch))
            if windows is not None:
                return ask_windows(self.model, self.data, sample, windows)
            return ask_once(self.model, self.data, sample)


def _paths(name: str, given: Files) -> list[Path]:
    listed = given if isinstance(given, list | tuple) else [given]
    return [Path(path_given(name, path, "a file, or a list of files")) for path in listed]


def load_run(
    checkpoint: str | Path,
    config: str | None = None,
    device: str = "auto",
    *,
    trained: bool = True,
    check: Callable[[AVDataModule], object] | None = None,
) -> TrainedRun:
    """Load a trained run, so that questions can be asked. The manifests of the run are not read.

    Args:
        checkpoint: A run folder, a ``.ckpt`` file, an adapter folder, or ``hf://OWNER/NAME`` for adapters on
            a model hub.
        config: Config file. By default, the run's own ``config.yaml`` is used.
        device: Name of a device, such as ``cpu`` or ``cuda:1``; ``auto`` uses a GPU if there is one.
        trained: Load the weights that the run has trained. With ``False``, the model is as before the
            training.
        check: Called with the tasks and datasets before any weight is read. An error that it raises ends the
            loading.

    Returns:
        The run, which can be unpacked into the model and the data module.

    Raises:
        ConfigError: If no config is given and the checkpoint belongs to no run folder, or the config is
            wrong.
        FileNotFoundError: If there is no checkpoint.
        HubError: If the hub cannot be reached, or has no such adapters.
        CheckpointError: If the checkpoint is damaged and there is no usable earlier one.
        ValueError: If this machine has no such device.
    """
    device = device_of(device)
    found = find_checkpoint(
        path_given("checkpoint", checkpoint, "a run folder, a .ckpt file or an adapter folder")
    )
    if config is None:
        run = find_run(found)
        if run is None:
            raise ConfigError(f"{found} belongs to no run folder with a config.yaml; give `config` too")
        config = str(run / "config.yaml")
        content = compose([config], of_run=True)
    else:
        config = path_given("config", config, "the name or the path of a config file")
        content = compose([config])
        find_paths((content.get("model") or {}).get("init_args") or {}, content.get("data") or {})
    content, _ = without_training(content, of_run=True)
    for name in ("model", "data"):
        if not isinstance(content.get(name), dict):
            raise ConfigError(f"{config} has no section {name} with keys, as the config of a run has")
    with naming_file([config]):
        drop_foreign_keys(content["model"])
    if not trained and isinstance(content.get("seed_everything"), int):
        torch.manual_seed(content["seed_everything"])
    model, data = _instantiate(content, found if found.is_dir() and trained else None, config)
    if check is not None:
        check(data)
    if model.adapter is not None:
        model.adapter = model.adapter.completed(None, list(data.tasks))  # as in a run with a Trainer
    model.configure_model()
    if found.is_file() and trained:
        state = read_tensors(usable_checkpoint(found))
        model.on_load_checkpoint(state)  # strict about the trained weights
        model.load_state_dict(state["state_dict"], strict=False)
    model.to(device).eval()
    data.processor = model.processor
    start_is_over()
    return TrainedRun(model, data)


def load_data(config: str | Path, **settings: Any) -> AVDataModule:
    """Return the data module of a config, for use with your own Trainer.

    Args:
        config: Path of a config file, or the name of a file in ``configs/``: a data section such as
            ``data/av_uie_v2.yaml``, or a whole config.
        settings: Arguments of ``AVDataModule`` that replace those of the file, such as ``root`` and ``only``.

    Raises:
        ConfigError: If there is no such file, or a key or value is wrong.
    """
    config = path_given("config", config, "the name or the path of a config file")
    return data_module(data_section(config) | settings, [config])


def device_of(name: str) -> str:
    """Return the name of a device of this machine; ``auto`` means a GPU if there is one, else the CPU.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ValueError(f"device {name}: there is no such device; use cpu, cuda or cuda:1") from err
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        has = f"has CUDA devices 0 to {count - 1}" if count else "has no CUDA device; use cpu"
        raise ValueError(f"device {name}: this machine {has}")
    return name


def _instantiate(content: dict[str, Any], adapter: Path | None, config: str) -> tuple[AVModule, AVDataModule]:
    load_installed_kinds()  # before the parser reads which keys adapters have
    model = content["model"]
    if adapter is not None:
        model = {**model, "init_args": {**(model.get("init_args") or {}), "load_adapter": str(adapter)}}
    # A question may use any dataset of the config, also one on which the run was not trained.
    sections = {"model": model, "data": {**content["data"], "only": None}}
    made = objects_of(sections, {"model": AVModule, "data": AVDataModule}, [config])
    made.data.taught = list(chosen_datasets(made.data.datasets, content["data"].get("only")))
    return made.model, made.data
