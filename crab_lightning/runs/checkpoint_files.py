"""Writes checkpoint files completely or not at all, keeps the earlier one, and checks files for damage."""

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

# Errors that reading a damaged file may raise.
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
    """A checkpoint cannot be written or read. The message says what can be used instead."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads the checkpoints of a run on a local or shared file system.

    A checkpoint is written under a temporary name, flushed to disk and then renamed, so that the earlier file
    stays if the process is killed or the disk is full. Before a new ``last.ckpt`` gets its name, the earlier
    one is renamed to ``previous.ckpt``. So there are two files on disk, and three during a save. The checksum
    of every part is compared before a file is read. If ``last.ckpt`` is damaged, ``previous.ckpt`` is read
    instead, with a warning.

    Only tensors and plain values are read, so that a file of another person cannot run code.
    """

    error: str | None = None
    """The reason why the last save failed, or ``None`` if it did not fail."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint. Only one process calls this.

        An error is stored in ``error`` and not raised, so that the error can be sent to the other processes,
        which wait for this one.
        """
        path = Path(path)
        self.error = None
        try:
            keep = path.with_name(PREVIOUS.name) if path.name == LAST.name else None
            # Written directly to the file, because Lightning's own writer first makes a copy in memory.
            replace_file(path, lambda temporary: torch.save(checkpoint, temporary), keep)
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as err:
            said = "the disk is probably full" if "inline_container" in str(err) else _reason(err)
            kept = f"the earlier {path} is not damaged" if path.is_file() else "there is no earlier one"
            self.error = (
                f"the checkpoint {path} could not be written ({said}); {kept}. Free space on that "
                "disk, or set run.root to another one, and resume"
            )

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint, or ``previous.ckpt`` if the checkpoint is a damaged ``last.ckpt``.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If the file is damaged and there is no usable earlier one.
        """
        return _read(usable_checkpoint(Path(path)), map_location)


def usable_checkpoint(path: Path) -> Path:
    """Return the path of a checkpoint that can be read: ``path``, or ``previous.ckpt`` if it is damaged.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged and there is no usable earlier one, or the file is unsafe.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    damage = damage_of(path)
    if damage is None:
        return path
    if path.suffix != LAST.suffix:
        raise CheckpointError(f"{path} is no checkpoint; give a run folder, .ckpt file or adapter folder")
    previous = path.with_name(PREVIOUS.name)
    if path.name != LAST.name or not previous.is_file():
        raise CheckpointError(
            f"the checkpoint {path} is damaged ({damage}), and there is no {PREVIOUS.name} in its folder. "
            "Use another checkpoint or adapter folder; a new run can start from one (model.load_adapter)"
        )
    if (other := damage_of(previous)) is not None:
        raise CheckpointError(
            f"the checkpoint {path} is damaged ({damage}), and so is {previous} ({other}). Use another "
            "checkpoint or adapter folder; a new run can start from one (model.load_adapter)"
        )
    warnings.warn(
        f"{path} is damaged ({damage}); continuing from {previous}. The training since then is lost.",
        stacklevel=2,
    )
    return previous


def damage_of(path: Path) -> str | None:
    """Return a description of the damage of a checkpoint, or ``None`` if the file can be read.

    This compares the checksums in the file, which torch does not: otherwise a flipped bit would change a
    weight.

    Raises:
        CheckpointError: If the file contains more than tensors and plain values, so that it may run code.
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
    # Messages of torch contain a stack trace after the first line.
    first = str(err).strip().splitlines()
    return first[0][:200] if first else type(err).__name__
