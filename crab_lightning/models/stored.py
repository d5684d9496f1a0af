"""Saves the trained weights of a model in adapter folders and Lightning checkpoints, and loads them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from crab_lightning.adapters import (
    AdapterConfig,
    AdapterError,
    load_adapters,
    read_adapter_metadata,
    save_adapters,
)
from crab_lightning.adapters.names import unwrapped_name
from crab_lightning.distributed.local_shards import whole_shape
from crab_lightning.distributed.sharding import readable_weights
from crab_lightning.models.answering import Answering
from crab_lightning.models.checkpoints import (
    given_arguments,
    plain_arguments,
    same_paradigm,
    typed_arguments,
)
from crab_lightning.tensor_files import misfits, read_tensors

_METADATA = "crab_lightning"


class StoredModule(Answering):
    """The base class that saves and loads the trained weights of a model."""

    # There is no __init__ here, because jsonargparse does not read that of a class with a __new__.
    adapter: AdapterConfig | None
    init_arguments: dict[str, Any]
    """The constructor's arguments by name."""

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Store the constructor's arguments, so that a checkpoint can be loaded without repeating them."""
        made = super().__new__(cls)
        given = given_arguments(cls, args, values)
        # An argument that a checkpoint cannot hold is an error now, and not only when it is saved.
        plain_arguments({name: value for name, value in given.items() if name != "optimizer"})
        object.__setattr__(made, "init_arguments", given)
        return made

    @abstractmethod
    def configure_model(self) -> None:
        """Load the weights, freeze them and insert the adapters; a second call does nothing."""

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters with their names, without the parts that FSDP1 adds to names."""
        for name, weight in super().named_parameters(*args, **options):
            yield unwrapped_name(name), weight

    @property
    def saves_parts(self) -> bool:
        """Whether ``save_adapter`` has anything to write beside Lightning's own checkpoint."""
        return self.adapter is not None

    def load_saved(self, folder: Path) -> None:
        """Load a folder that ``save_adapter`` wrote.

        Raises:
            AdapterError: If the adapters are missing, damaged, or do not fit the run.
        """
        wanted = self._expectations()
        found = read_adapter_metadata(folder)
        # Older versions wrote the class name instead of the short name.
        own = wanted.pop("paradigm")
        if same_paradigm(found.get("paradigm")) != own:
            raise AdapterError(
                f"the adapters in {folder} are not for this run: paradigm is {found.get('paradigm')!r} in "
                f"the checkpoint, {own!r} in the run"
            )
        load_adapters(self.model, folder, expect=wanted)
        self._compare_base(found.get("base_model"))

    def metadata(self) -> dict[str, Any]:
        """Return the facts stored beside the adapters: base model, preprocessing and architecture."""
        return {"base_model": self.base_name} | self._expectations()

    def _expectations(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {"geometry": self.geometry, "paradigm": self.paradigm or type(self).__name__}
        return wanted | ({} if self.adapter is None else self.adapter.identity())

    def save_adapter(self, folder: Path | str) -> None:
        """Write the adapters to a folder, which ``model.load_adapter`` reads.

        Raises:
            ValueError: If the model has no adapters.
        """
        if self.adapter is None:
            raise ValueError("this model has no adapters: model.adapter is null, so every weight is trained")
        with readable_weights(self._trainer):
            save_adapters(self.model, Path(folder), self.metadata())

    # Checkpoints of Lightning

    def trainable_names(self) -> set[str]:
        """Return the names of the trained parameters, as in a state dict."""
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained weights in a checkpoint, and add the metadata and arguments of the model."""
        kept = self.trainable_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint[_METADATA] = self.metadata() | {"init": self._stored_arguments()}

    def _stored_arguments(self) -> dict[str, Any]:
        """Return the arguments for a checkpoint; the optimizer is left out, because it is a function."""
        given = {name: value for name, value in self.init_arguments.items() if name != "optimizer"}
        # The weights of the checkpoint replace those in load_adapter.
        return plain_arguments(given | {"adapter": self.adapter, "load_adapter": None})

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's also takes open files
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **values: Any,
    ) -> Self:
        """Return the module of a ``.ckpt`` file with its trained weights, in evaluation mode.

        The base weights are read from the same place as in the run. ``load_run`` on the run folder does the
        same, and also loads the tasks and datasets.

        Args:
            checkpoint_path: A ``.ckpt`` file of a run.
            map_location: Device of the trained weights; the CPU when left out.
            hparams_file: This is not used.
            strict: This is not used: the weights must always fit.
            weights_only: This is not used: code in a file is never run.
            values: Arguments that replace those in the file, such as ``pretrained`` if the base has moved.

        Raises:
            FileNotFoundError: If the file does not exist, or the base weights are no longer in their place.
            ValueError: If the file cannot be read, is of another architecture, contains no arguments, or its
                weights do not fit.
        """
        path = Path(checkpoint_path)
        if not path.is_file():
            inside = path / "checkpoints" / "last.ckpt"
            give = str(inside) if inside.is_file() else "the .ckpt file of a run"
            raise FileNotFoundError(f"there is no file {path}; give {give}")
        state = read_tensors(path, map_location or "cpu")
        about = state.get(_METADATA, {})
        own = cls.paradigm or cls.__name__
        if (found := same_paradigm(about.get("paradigm"))) != own:
            raise ValueError(
                f"{path} is for the architecture {found!r}, but {cls.__name__} has the architecture {own!r}. "
                "Use the class of that model, or call crab_lightning.load_run on the run folder, which finds "
                "the class"
            )
        if "init" not in about and not values:
            raise ValueError(
                f"{path} was written by an older version and does not contain the arguments of the module. "
                f"Give them: {cls.__name__}.load_from_checkpoint(path, pretrained=..., adapter=..., ...), or "
                "call crab_lightning.load_run on the run folder, whose config.yaml has them"
            )
        module: Self = cls(**(typed_arguments(cls, about.get("init", {})) | values))
        module.on_load_checkpoint(state)  # checks that the trained weights are complete
        module.load_state_dict(state["state_dict"], strict=False)
        module.eval()
        return module

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; frozen weights may be absent, because they were loaded with the base model.

        Raises:
            RuntimeError: If ``strict`` is set and trained weights are missing or unknown weights are given.
        """
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        trained = self.trainable_names()
        found.missing_keys[:] = [name for name in found.missing_keys if name in trained]
        if strict and (found.missing_keys or found.unexpected_keys):
            raise RuntimeError(f"weights do not fit the model: {found}")
        return found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise an error if a checkpoint does not belong to this model.

        Raises:
            ValueError: If the geometry, the architecture or a decisive setting of the adapters differs, or
                the weights are not exactly the trained weights.
        """
        self.configure_model()
        about = checkpoint.get(_METADATA, {})
        pairs = {name: (about.get(name), wanted) for name, wanted in self._expectations().items()}
        pairs["paradigm"] = same_paradigm(about.get("paradigm")), pairs["paradigm"][1]
        saved = about.get("init", {}).get("adapter")  # absent in checkpoints of older versions
        if self.adapter is not None and saved:
            own = plain_arguments(asdict(self.adapter))
            pairs |= {f"adapter.{k}": (saved[k], own[k]) for k in self.adapter.decisive if k in saved}
        for name, (found, wanted) in pairs.items():
            if found != wanted:
                raise ValueError(
                    f"the checkpoint was trained with {name} {found!r}, but this run has {wanted!r}. Set "
                    f"{name} to the value in the config of the checkpoint's run, or train another run"
                )
        trained = {name: whole_shape(p) for name, p in self.named_parameters() if p.requires_grad}
        if problems := misfits(checkpoint["state_dict"], trained):
            raise ValueError(
                f"the checkpoint does not fit the model; of its weights, {problems}. Give model.adapter the"
                " same kind, rank, heads and target_modules as in the training of the checkpoint."
            )
        self._compare_base(about.get("base_model"))

    def _compare_base(self, trained_on: str | None) -> None:
        """Warn if adapters were trained on a base model with another name; a moved folder keeps its name."""
        if trained_on is not None and _last_name(trained_on) != _last_name(self.base_name):
            rank_zero_warn(
                f"the adapters were trained on the base model {trained_on}, but model.pretrained is"
                f" {self.base_name}. If these are not the same weights, the answers are of no use"
            )


def _last_name(base: str) -> str:
    """Return the name of base weights without their owner or folder, also in a cache of the hub."""
    cached = [part for part in Path(base).parts if part.startswith("models--")]
    return cached[0].rpartition("--")[2] if cached else Path(base).name
