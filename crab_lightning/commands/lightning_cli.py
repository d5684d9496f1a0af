"""Lightning's command line for one function of the Trainer, with one config and one run folder."""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from crab_lightning.adapters.kinds import drop_foreign_keys, load_installed_kinds
from crab_lightning.commands.identity import identity
from crab_lightning.commands.loggers import place_loggers, with_save_dir
from crab_lightning.commands.switches import check_switches
from crab_lightning.compat import callbacks_of, datamodule_of, whole_numbers_first
from crab_lightning.configuration.allowed_code import check_classes, guard_parsers
from crab_lightning.configuration.files import ConfigError, in_file, naming_file
from crab_lightning.configuration.parser_messages import content_of, explained, plainly, refuse_unread
from crab_lightning.configuration.sections import find_paths
from crab_lightning.dashboards import RunProgress, TrainScalars
from crab_lightning.data import AVDataModule, CaptionDataModule
from crab_lightning.evaluation import Evaluator
from crab_lightning.files import parsed_yaml, replace_text
from crab_lightning.models import AskedModule
from crab_lightning.program import is_first_process, told
from crab_lightning.runs import RunCheckpoint, RunFolder, find_checkpoint, find_run
from crab_lightning.runs.hub import downloaded, in_cache, is_address
from crab_lightning.runs.nonfinite import NonFiniteSteps
from crab_lightning.runs.ownership import Ownership, check_vacant, own_new_version, set_run_aside
from crab_lightning.runs.run_folder import AUTO, LAST, PREVIOUS
from crab_lightning.spelling import did_you_mean

_ABOUT = {
    "fit": "Train adapters on a mixture of datasets and write a run folder. Example: python cli.py fit"
    " --config demo.yaml --data.root mini_avuie. FILE is a path or the name of a file in configs/. Keys of"
    " the command line take precedence over the file.",
    "validate": "Compute the loss of a run on its validation split, generate answers and score them.",
    "test": "Answer the test splits with a run, score the answers, and write both into its folder.",
    "predict": "Answer the test splits with a run, without scores, into its folder's predictions/predict/.",
}
ZERO_SHOT = "-zero-shot"
"""Ends the name of a run that tests a model without a checkpoint."""


_CALLBACKS = {"evaluator": Evaluator, "nonfinite": NonFiniteSteps, "checkpoint": RunCheckpoint}


@dataclass
class RunKeys:
    """Folder and processor threads of a run.

    Args:
        root: Folder under which new run folders are made.
        name: Name of the run; its folder is ROOT/NAME/version_N. By default, it is the name of the config
            file.
        folder: The run folder itself. By default, it is the folder of the run that --ckpt_path names, or a
            new one.
        replace: Start a new run in a folder that contains one already. The earlier files are moved to
            earlier/ in that folder.
        threads: Number of CPU threads of each process. The last digits of sums may depend on it, so use the
            same number to repeat a run. By default, torch chooses the number.
    """

    root: str = "runs"
    name: str | None = None
    folder: str | None = None
    replace: bool = False
    threads: int | None = None


class CrabCLI(LightningCLI):
    """Parses a config and runs one of four functions of the Trainer.

    It builds the parser of this function only. Lightning's own sub-commands build four parsers, and let the
    hyperparameters stored in a checkpoint override flags and configs.

    Args:
        function: ``fit``, ``validate``, ``test`` or ``predict``.
        args: Words of the command line after the function's name; at most one ``--config``, as text.
        run_name: Name of the run when neither config nor flags give one.
        files: The config files that were given, for error messages.
    """

    data_class: type[AVDataModule] = AVDataModule

    def __init__(
        self, function: str, args: Sequence[str], run_name: str | None = None, files: Sequence[str] = ()
    ) -> None:
        self.function = function
        self.files = files
        self.run_name = run_name
        self.ownership: Ownership | None = None
        self.folder_callback: RunFolder | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        source = "--config FILE" if function == "fit" else "--ckpt_path RUN"
        super().__init__(
            AskedModule,
            self.data_class,
            save_config_callback=None,  # the run folder's begin writes it
            seed_everything_default=0,
            parser_kwargs={
                "prog": f"cli.py {function}",  # `told` replaces this name in messages
                "usage": told(f"cli.py {function} {source} [--KEY VALUE ...]"),
                "description": told(_ABOUT[function]),
                "allow_abbrev": False,  # a misspelt key must not be taken for another
                "exit_on_error": False,  # parse_arguments says what is wrong, without a page of usage
            },
            subclass_mode_model=True,
            args=with_save_dir(args),
            run=False,
            auto_configure_optimizers=False,  # it would build the optimizer before the adapters exist
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run other than those of model, data and trainer."""
        whole_numbers_first(parser)
        for key, callback in _CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        parser.add_class_arguments(RunKeys, "run")
        parser.set_defaults({"run.name": self.run_name})
        parser.add_argument(
            "--only",
            type=str | None,
            default=None,
            help="Keys of the datasets to use, separated by commas (ave,avvp). All others are left out.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to load: a .ckpt file, a run folder, an adapter folder, or hf://OWNER/NAME for"
            " adapters on a model hub. Without --config the run's own config is used. With --run.folder,"
            " `auto` loads the last checkpoint of that folder, or starts a new run if there is none, so that"
            " the same command line starts and continues a job.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the options, and find the checkpoint or the adapters that ``--ckpt_path`` names."""
        # The inherited method is not called: it warns if sys.argv is not empty, which is always so here.
        guard_parsers()
        load_installed_kinds()  # before the parser reads which keys adapters have
        places = {"model": AskedModule, "data": self.data_class, "trainer": Trainer} | _CALLBACKS
        places |= {"seed_everything": bool | int, "run": RunKeys}
        try:
            with naming_file(self.files):
                self.config = parser.parse_args(args)
                refuse_unread(parser, content_of(args), self.config, places)
        except ArgumentError as err:
            self.refuse(in_file(explained(str(err), parser, args, places), self.files))
        with naming_file(self.files):
            check_classes(self.config)
        self._find_paths()
        if self.config.only is not None:
            # All rows stay in the run's config, because `ask` can use any of them.
            rows = self.config.data.get("datasets") or self.config.data.sources
            self.config.data.only = _chosen(list(rows), self.config.only)
        self.ckpt_path: Path | None = None
        self.adapter_folder: Path | None = None
        wanted = self.config.ckpt_path
        if wanted == AUTO:
            wanted = self._latest()
        if wanted is None:
            return
        found = find_checkpoint(wanted)
        if found.is_file() and found.suffix != ".ckpt":
            raise ConfigError(f"--ckpt_path {wanted}: this is neither a run folder nor a .ckpt file")
        if found.is_file():
            self.ckpt_path = found
            return
        if self.function == "fit":
            raise FileNotFoundError(
                f"{found} contains adapters only; fit resumes from a .ckpt with optimizer state. To start "
                f"from these weights use --model.init_args.load_adapter {found}"
            )
        self.adapter_folder = found
        init = self.config.model.get("init_args")
        if init is None or "load_adapter" not in init:
            raise ConfigError(
                f"{self.config.model.class_path} has no load_adapter argument; give a .ckpt file"
            )
        init.load_adapter = str(found)

    def refuse(self, said: str) -> None:
        """Print an error, and end the command with the exit status 2."""
        print(f"error: {told(said)}", file=sys.stderr)
        raise SystemExit(2)

    def _find_paths(self) -> None:
        """Make relative paths absolute, because the stored config is also read from other folders."""
        init, data = self.config.model.get("init_args") or {}, self.config.data
        if is_address(given := str(init.get("load_adapter") or "")):
            init["load_adapter"] = str(downloaded(given))
        find_paths(init, data)
        if isinstance(data.get("root"), str | Path):  # this folder need not exist yet
            data["root"] = str(Path(data["root"]).absolute())
        for key in ("run.root", "run.folder", "ckpt_path"):
            if (value := self.config.get(key)) and value.startswith("~"):
                self.config[key] = str(Path(value).expanduser())

    def _latest(self) -> str | None:
        """Return the last checkpoint of the run folder, or ``None`` if the folder has none."""
        if self.config.run.folder is None:
            raise ConfigError(f"--ckpt_path {AUTO} needs --run.folder, the folder of the run to continue")
        places = [Path(self.config.run.folder) / name for name in (LAST, PREVIOUS)]
        return next((str(place) for place in places if place.is_file()), None)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, take ownership of it, and let the loggers write there."""
        with naming_file(self.files):
            check_switches(self.config.trainer, self.function)
        if (threads := self.config.run.threads) is not None:
            if threads < 1:
                raise ConfigError(f"--run.threads is {threads}; at least 1 is needed")
            torch.set_num_threads(threads)
        self.run_folder = self._take_folder()
        place_loggers(self.config.trainer, self.run_folder)
        # Lightning reads this when it builds model and data; run folder and Evaluator read it later. It takes
        # longer than an optimizer step of the demo, so it is made once, without another check.
        text = self.parser.dump(self.config, format="json", skip_unset=False, skip_validation=True)
        self.config_dump = json.loads(text)

    def _take_folder(self) -> Path:
        """Return the run folder. The first process owns the folder until :meth:`close`."""
        run, train = self.config.run, self.function == "fit"
        if self.config.trainer.get("fast_dev_run"):  # such a trial must leave no files
            self._scratch = tempfile.TemporaryDirectory(prefix="fast_dev_run_")
            return Path(self._scratch.name)
        source = self.ckpt_path or self.adapter_folder
        found = Path(run.folder) if run.folder else None
        if found is None and source is not None and not in_cache(source):
            found = find_run(source)
        first = is_first_process()
        if found is None:
            name = run.name or "run"
            loaded = source or self.config.model.get("init_args", {}).get("load_adapter")
            if not train and not loaded:
                name += ZERO_SHOT
                if first:
                    print(
                        f"No checkpoint is given: {self.function} uses the base model without training"
                        f" (zero-shot),"
                        f" into {Path(run.root) / name}. For a trained run, give --ckpt_path RUN.",
                        file=sys.stderr,
                    )
            home = Path(run.root) / name
            if not first:  # the first process chooses the version
                return home
            self.ownership = own_new_version(home, self.function)
            return self.ownership.folder
        if first:
            if not (train and run.replace):
                check_vacant(found, source, train=train)
            self.ownership = Ownership(found, self.function)
        return found

    def close(self) -> None:
        """Release the run folder, and remove it if it was made for a run that never began."""
        if self.ownership is not None:
            self.ownership.release(keep=self.folder_callback is not None and self.folder_callback.has_begun)
        if self._scratch is not None:
            self._scratch.cleanup()

    def _begin(self, trainer: Trainer) -> None:
        """Write ``config.yaml``, or ``config.<function>.yaml`` if the folder has the config of a training."""
        if self._scratch is not None:
            return
        folder, known = self.run_folder, self.run_folder / "config.yaml"
        if self.function == "fit" and self.config.run.replace:
            place = set_run_aside(folder)
            if place is not None:
                print(f"The run that was in {folder} is now in {place}")
        path = (
            folder / f"config.{self.function}.yaml" if self.function != "fit" and known.is_file() else known
        )
        content = deepcopy(self.config_dump)
        # The class names found in the manifests are stored too: `ask` has no manifests, and must use the same
        # class indices.
        for name, row in content["data"].get("datasets", {}).items():
            if name in datamodule_of(trainer).datasets:  # data.only leaves rows out
                row["classes"] = datamodule_of(trainer).datasets[name].classes
        content = {key: value for key, value in content.items() if key not in ("config", "ckpt_path")}
        drop_foreign_keys(content["model"])
        # Without these keys, a run that is copied or moved writes into its new folder.
        content["run"] = {k: v for k, v in content["run"].items() if k not in ("folder", "replace")}
        replace_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def instantiate_classes(self) -> None:
        """Build all objects. An error about several possible types keeps the message of the right type."""
        try:
            with plainly(self.files):
                super().instantiate_classes()
        except BaseException:
            self.close()
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with the run folder and the default loggers, progress bar and scalars."""
        config = self.config_init.trainer
        if config.logger in (None, True):
            # The run folder itself contains the event files.
            board: dict[str, Any] = {"name": "", "version": "", "default_hp_metric": False}
            loggers: list[Any] = [TensorBoardLogger(self.run_folder, **board)]
        else:
            loggers = config.logger if isinstance(config.logger, list) else [config.logger]
        # RunFolder adds the loggers to the trainer, since none of them may write before the folder is ready.
        kwargs["logger"] = False
        quick = self._scratch is not None
        self.folder_callback = RunFolder(
            self.run_folder, [] if quick else [one for one in loggers if one], on_begin=self._begin
        )
        self.trainer_defaults = {"callbacks": [TrainScalars()]}
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        given = config.get("callbacks") or []
        given = list(given) if isinstance(given, list) else [given]
        if config.get("enable_checkpointing") is False:
            callbacks = [c for c in callbacks if not isinstance(c, RunCheckpoint)]
        if config.get("enable_progress_bar") is not False and not any(
            isinstance(c, ProgressBar) for c in given
        ):
            callbacks = [*callbacks, RunProgress()]
        config["callbacks"] = [self.folder_callback, *given]
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (TypeError, RuntimeError) as err:  # Lightning's message about a wrong option
            raise ConfigError(f"trainer: {err}") from err

    def start(self) -> None:
        """Run the function."""
        for callback in callbacks_of(self.trainer):
            if isinstance(callback, Evaluator):
                callback.identity = identity(self.config_dump, self.adapter_folder)
        arguments: dict[str, Any] = {"datamodule": self.datamodule, "ckpt_path": self.ckpt_path}
        arguments["weights_only"] = True  # a checkpoint from elsewhere must not run code
        if self.function in ("validate", "test"):
            arguments["verbose"] = False  # the Evaluator prints its own table
        if self.function == "predict":
            arguments["return_predictions"] = False  # they are written immediately and not kept
        try:
            getattr(self.trainer, self.function)(self.model, **arguments)
        finally:
            self.close()
        began = self.folder_callback is not None and self.folder_callback.has_begun
        if self.trainer.is_global_zero and self.ownership is not None and began:
            print(f"Run folder: {self.run_folder}")


class ConnectorCLI(CrabCLI):
    """The command line for stage 1, which trains on captions instead of a mixture of tasks."""

    data_class = CaptionDataModule


def cli_for(args: Sequence[str]) -> type[CrabCLI]:
    """Return the class for a config: :class:`ConnectorCLI` if the config has ``data.sources``.

    Args:
        args: Words of the command line; at most one ``--config``, as text.
    """
    words = list(args)
    text = words[words.index("--config") + 1] if "--config" in words else ""
    data = (parsed_yaml(text) or {}).get("data")
    return ConnectorCLI if isinstance(data, dict) and "sources" in data else CrabCLI


def _chosen(datasets: list[str], only: str) -> list[str]:
    """Return the datasets that ``--only`` names, in the order of the config."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if not names or (unknown := [name for name in names if name not in datasets]):
        wrong = (
            f"there is no dataset {', '.join(unknown)}{did_you_mean(unknown[0], datasets)}"
            if names
            else "it names none"
        )
        raise ConfigError(f"--only {only}: {wrong}; data.datasets has: {', '.join(datasets)}")
    return [name for name in datasets if name in names]
