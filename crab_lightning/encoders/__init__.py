"""Audio encoders that transformers does not have; they know no language model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.encoders.beats import Beats, BeatsConfig
    from crab_lightning.encoders.beats_files import BeatsFileError, load_beats, save_beats
    from crab_lightning.encoders.fbank import beats_fbank, beats_tokens, fbank_frames

__all__ = [
    "Beats",
    "BeatsConfig",
    "BeatsFileError",
    "beats_fbank",
    "beats_tokens",
    "fbank_frames",
    "load_beats",
    "save_beats",
]

# torchaudio takes a second to import: only when a name that needs it is used.
_HOMES = {
    "Beats": "beats",
    "BeatsConfig": "beats",
    "BeatsFileError": "beats_files",
    "beats_fbank": "fbank",
    "beats_tokens": "fbank",
    "fbank_frames": "fbank",
    "load_beats": "beats_files",
    "save_beats": "beats_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
