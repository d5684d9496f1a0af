"""Checkpoint files that are whole or absent, the one before kept, and checked when they are read."""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from crab_lightning.files import replace_file
from crab_lightning.runs.run_folder import LAST, PREVIOUS
from crab_lightning.tensor_files import TensorFileError, UnsafeTensorFile, read_tensors

# What reading a file of other bytes than were written ends in.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message says which one can be used instead."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads the checkpoints of a run on a local or shared file system.

    A checkpoint is written under a temporary name, flushed to disk and renamed, so that a process that is
    killed or a disk that is full leaves the old one. ``last.ckpt`` becomes ``previous.ckpt`` before a new one
    takes its name: on disk there are two, and three while one is written. Reading compares the checksum of
    every part; a damaged ``last.ckpt`` gives way to ``previous.ckpt``, with a warning.

    Only tensors and plain values are read, so a file from elsewhere cannot run code.
    """

    error: str | None = None
    """Why the last save failed, for the other processes; ``None`` if it did not."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; called on one process.

        A failure is kept in ``error`` instead of being raised here: the other processes wait for this one,
        and all have to hear of it.
        """
        path = Path(path)
        self.error = None
        try:
            keep = path.with_name(PREVIOUS.name) if path.name == LAST.name else None
            # Straight to the file: Lightning's own writer holds all bytes in memory a second time first.
            replace_file(path, lambda temporary: torch.save(checkpoint, temporary), keep)
        # torch's writer reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as err:
            kept = f"the earlier {path} is not damaged" if path.is_file() else "there is no earlier one"
            self.error = (
                f"the checkpoint {path} could not be written ({_reason(err)}); {kept}. Free space on that "
                "disk, or set run.root to another one, and resume"
            )

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint, or the one before it if it is the damaged last one.

        Raises:
            FileNotFoundError: If there is none.
            CheckpointError: If it is damaged and nothing can take its place.
        """
        return _read(usable_checkpoint(Path(path)), map_location)


def usable_checkpoint(path: Path) -> Path:
    """Return a checkpoint that can be read: the one that is given, or the one before a damaged ``last.ckpt``.

    Raises:
        FileNotFoundError: If there is none.
        CheckpointError: If it is damaged and nothing can take its place.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    damage = damage_of(path)
    if damage is None:
        return path
    previous = path.with_name(PREVIOUS.name)
    if path.name != LAST.name or not previous.is_file():
        raise CheckpointError(
            f"the checkpoint {path} is damaged ({damage}), and there is no {PREVIOUS.name} beside it. Resume "
            "from another checkpoint, or start a new run from an adapter folder with --model.load_adapter"
        )
    if (other := damage_of(previous)) is not None:
        raise CheckpointError(
            f"the checkpoint {path} is damaged ({damage}), and so is {previous} ({other}). Start a new run "
            "from an adapter folder with --model.load_adapter"
        )
    warnings.warn(
        f"{path} is damaged ({damage}); continuing from {previous}. The training since then is lost.",
        stacklevel=2,
    )
    return previous


def damage_of(path: Path) -> str | None:
    """Return what is wrong with a checkpoint; ``None`` if nothing.

    torch does not compare the checksums inside it: a flipped bit would become a weight.

    Raises:
        CheckpointError: If it asks for more than tensors and plain values: it is not damaged, but made so.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            if (wrong := parts.testzip()) is not None:
                return f"the checksum of its part {wrong} is wrong"
        _read(path, "cpu", mmap=True)
    except UnsafeTensorFile as err:
        raise CheckpointError(str(err)) from err
    except TensorFileError as err:
        return _reason(err.__cause__ or err)
    except _DAMAGE as err:
        return _reason(err)
    return None


def _read(path: Path, map_location: Any, mmap: bool = False) -> dict[str, Any]:
    found = read_tensors(path, map_location, mmap=mmap)
    if not isinstance(found, dict) or not {"state_dict", "global_step", "loops"} <= found.keys():
        raise ValueError("it has no state of a run")
    return found


def _reason(err: BaseException) -> str:
    # torch's messages go on with a stack trace.
    first = str(err).strip().splitlines()
    return first[0][:200] if first else type(err).__name__
