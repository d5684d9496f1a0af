"""Published checkpoints: what is said where one is absent, and where a thinker keeps its towers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HFValidationError


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


def towers_of(model: Any) -> tuple[Any, Any]:
    """Return the vision and the audio tower of a thinker: inside ``model.model``, or beside it (5.17)."""
    inner = model.model if hasattr(model.model, "visual") else model
    return inner.visual, inner.audio_tower
