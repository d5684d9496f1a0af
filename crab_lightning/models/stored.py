"""What of a model is kept in files, and how it is found again: adapters, and Lightning's checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from torch import nn

from crab_lightning.adapters import (
    AdapterConfig,
    AdapterError,
    load_adapters,
    read_adapter_metadata,
    save_adapters,
)
from crab_lightning.adapters.names import unwrapped_name
from crab_lightning.distributed.sharding import readable_weights
from crab_lightning.models.answering import Answering
from crab_lightning.models.checkpoints import (
    check_fit,
    given_arguments,
    plain_arguments,
    same_paradigm,
    typed_arguments,
)
from crab_lightning.tensor_files import read_tensors

_METADATA = "crab_lightning"


class StoredModule(Answering):
    """The part of a model with weights that saves what was trained, and loads it."""

    # No ``__init__`` here: of a class with a ``__new__`` of its own, jsonargparse does not read it.
    adapter: AdapterConfig | None
    init_arguments: dict[str, Any]
    """What the module was made with, by argument."""

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Keep the arguments, for checkpoints that can be loaded without repeating them."""
        made = super().__new__(cls)
        given = given_arguments(cls, args, values)
        # What a checkpoint cannot hold is refused now, not when it is saved.
        plain_arguments({name: value for name, value in given.items() if name != "optimizer"})
        object.__setattr__(made, "init_arguments", given)
        return made

    @abstractmethod
    def configure_model(self) -> None:
        """Load the weights, freeze them and insert the adapters; a second call does nothing."""

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and weights, named as they are without FSDP1."""
        for name, weight in super().named_parameters(*args, **options):
            yield unwrapped_name(name), weight

    @property
    def saves_parts(self) -> bool:
        """Whether ``save_adapter`` has anything to write beside Lightning's own checkpoint."""
        return self.adapter is not None

    def load_saved(self, folder: Path) -> None:
        """Load what ``save_adapter`` wrote."""
        wanted = self._expectations()
        found = read_adapter_metadata(folder)
        # Folders written before paradigms had short names hold a class name.
        own = wanted.pop("paradigm")
        if same_paradigm(found.get("paradigm")) != own:
            raise AdapterError(
                f"the adapters in {folder} are not for this run: paradigm is {found.get('paradigm')!r} in "
                f"the checkpoint, {own!r} in the run"
            )
        load_adapters(self.model, folder, expect=wanted)

    def metadata(self) -> dict[str, Any]:
        """What is stored beside the adapters: base weights, preprocessing and architecture."""
        return {"base_model": self.base_name} | self._expectations()

    def _expectations(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {"geometry": self.geometry, "paradigm": self.paradigm or type(self).__name__}
        return wanted | ({} if self.adapter is None else self.adapter.identity())

    def save_adapter(self, folder: Path | str) -> None:
        """Write the adapters to a folder that ``load_adapter`` reads.

        Raises:
            ValueError: If the model has none.
        """
        if self.adapter is None:
            raise ValueError(
                "this model has no adapters to save: model.adapter is null, every weight is trained"
            )
        with readable_weights(self._trainer):
            save_adapters(self.model, Path(folder), self.metadata())

    # Checkpoints of Lightning

    def trainable_names(self) -> set[str]:
        """Names of the parameters that are trained, as a state dict has them."""
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights only, and note what they belong to."""
        kept = self.trainable_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint[_METADATA] = self.metadata() | {"init": self._stored_arguments()}

    def _stored_arguments(self) -> dict[str, Any]:
        """Return the arguments that a file can hold; the optimizer, a function, is left out."""
        given = {name: value for name, value in self.init_arguments.items() if name != "optimizer"}
        # The weights of the checkpoint take the place of those that the run started from.
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
        """Return the module of a ``.ckpt`` file with its trained weights, ready to answer.

        The base weights are read from where the run read them. ``load_run`` of the run folder does the same
        and brings tasks and datasets too.

        Args:
            checkpoint_path: A ``.ckpt`` file of a run.
            map_location: Device of the trained weights; the CPU when left out.
            hparams_file: Not used.
            strict: Not used: weights have to fit.
            weights_only: Not used: no code of a file is ever run.
            values: Arguments that win over those in the file, such as ``pretrained`` if the base has moved.

        Raises:
            FileNotFoundError: If there is no file, or the base weights are not where they were.
            ValueError: If the file is of another architecture, contains no arguments, or its weights do not
                fit.
        """
        path = Path(checkpoint_path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; give the .ckpt file of a run")
        state = read_tensors(path, map_location or "cpu")
        about = state.get(_METADATA, {})
        own = cls.paradigm or cls.__name__
        if (found := same_paradigm(about.get("paradigm"))) != own:
            raise ValueError(
                f"{path} is for the architecture {found!r}, and {cls.__name__} has the architecture {own!r}. "
                "Use the class of that model, or call crab_lightning.load_run on the run folder, which finds "
                "the class"
            )
        if "init" not in about and not values:
            raise ValueError(
                f"{path} was written before checkpoints held their module's arguments. Give them: "
                f"{cls.__name__}.load_from_checkpoint(path, pretrained=..., adapter=..., ...), or use "
                "crab_lightning.load_run on the run folder, whose config.yaml has them"
            )
        module: Self = cls(**(typed_arguments(cls, about.get("init", {})) | values))
        module.on_load_checkpoint(state)  # strict about the trained weights
        module.load_state_dict(state["state_dict"], strict=False)
        module.eval()
        return module

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; the frozen ones may be absent, since the base brought them."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        trained = self.trainable_names()
        found.missing_keys[:] = [name for name in found.missing_keys if name in trained]
        if strict and (found.missing_keys or found.unexpected_keys):
            raise RuntimeError(f"weights do not fit the model: {found}")
        return found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another geometry, or whose weights are not exactly the trained ones.

        Raises:
            ValueError: If the geometry or a decisive setting of the adapters differs, or weights do not fit.
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
                    f"the checkpoint was trained with {name} {found!r}, this run has {wanted!r}. "
                    f"Weights are used as they were trained: leave {name} as the config of their run has it, "
                    "or train another run"
                )
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        check_fit(checkpoint["state_dict"], trained)
