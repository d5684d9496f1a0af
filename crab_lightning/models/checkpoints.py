"""What is said where a checkpoint is absent or does not fit, and where a thinker keeps its towers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HFValidationError
from torch import Tensor

from crab_lightning.distributed.shares import whole_shape


@contextmanager
def clear_when_absent(what: str, remedy: str = "Give the folder of one") -> Iterator[None]:
    """Name the option and the remedy where transformers finds no checkpoint: it raises a bare error then.

    Args:
        what: The option with its value, and what should have been read from it.
        remedy: What to give instead.

    Raises:
        FileNotFoundError: In place of that bare error; any other error passes.
    """
    try:
        yield
    except (OSError, HFValidationError) as err:
        if isinstance(err, OSError) and (type(err) is not OSError or err.errno is not None):
            raise
        raise FileNotFoundError(f"{what} could be read there or on the hub ({err}). {remedy}") from err


def check_fit(saved: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Compare the weights of a checkpoint with those that a model trains.

    Raises:
        ValueError: If weights are missing, unknown or of another shape.
    """
    missing, unknown = sorted(trained.keys() - saved.keys()), sorted(saved.keys() - trained.keys())
    shapes = [
        f"{name}: {tuple(saved[name].shape)} in the checkpoint,"
        f" {tuple(whole_shape(trained[name]))} in the model"
        for name in sorted(trained.keys() & saved.keys())
        if whole_shape(trained[name]) != saved[name].shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    if found := [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names]:
        raise ValueError(
            f"the checkpoint does not fit the model; of its weights, {', '.join(found)}. Give model.adapter"
            " the kind, rank, heads and targets it was trained with."
        )


def towers_of(model: Any) -> tuple[Any, Any]:
    """Return the vision and the audio tower of a thinker: inside ``model.model``, or beside it (5.17)."""
    inner = model.model if hasattr(model.model, "visual") else model
    return inner.visual, inner.audio_tower
