"""Makes sure that only one run at a time writes into a run folder, and that it replaces no other run."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from crab_lightning.files import free_place
from crab_lightning.runs.run_folder import ADAPTER, BEST, LAST, PREVIOUS, newest_version

if os.name == "posix":
    import fcntl

LOCK = ".lock"
"""File in a run folder that is locked by the run that writes. It also shows that a run made the folder."""

# The files that a run makes, which `--run.replace` moves away.
_MADE = (
    "config.yaml",
    "config.*.yaml",
    "metrics.json",
    "predictions",
    "figures",
    "masks",
    "checkpoints",
    "adapter",
    "probe",
    "quarantine.jsonl",
    "events.out.tfevents.*",
    "hparams.yaml",
)


class RunFolderError(ValueError):
    """A run folder is used by another process, contains another run, or cannot be written."""


class Ownership:
    """The exclusive right to write into one run folder, until :meth:`release` or the end of the process.

    This is a lock of the operating system (``fcntl.lockf``). It ends with the process, and forked loader
    processes do not hold it. If the file system has no locks, the run continues without one.

    Args:
        folder: The run folder, which is made if it does not exist.
        function: Name of the command, for the message that another process shows.

    Raises:
        RunFolderError: If another process writes into the folder, or the folder cannot be made or written.
    """

    def __init__(self, folder: Path, function: str) -> None:
        self.folder = folder
        self.is_new = not folder.exists() or _is_abandoned(folder)
        """Whether the folder was new or contained only the lock of an earlier run."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as err:
            raise RunFolderError(
                f"the run folder {folder} cannot be written ({err.strerror}). Give another one with"
                " --run.folder, or another --run.root"
            ) from err
        if not _lock(self._file):
            holder = os.read(self._file, 500).decode(errors="replace").strip() or "another process"
            os.close(self._file)
            self._file = None
            raise RunFolderError(
                f"{folder} is in use: {holder} writes into it. Wait until it has ended, or give another"
                f" folder with --run.folder"
            )
        now = datetime.now().strftime("%Y-%m-%d %H:%M")
        text = f"`{function}`, process {os.getpid()} on {socket.gethostname()}, since {now}\n"
        with suppress(OSError):  # the disk may be full; the process has the lock anyway
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)

    def release(self, *, keep: bool = True) -> None:
        """Allow others to write into the folder.

        Args:
            keep: Keep the folder. With ``False``, a folder that was new is removed with all its files.
        """
        if self._file is None:
            return
        if not keep and self.is_new:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._file)
        self._file = None


def own_new_version(home: Path, function: str) -> Ownership:
    """Take the next free ``version_N`` folder of a run name. Two processes never get the same folder.

    Args:
        home: Folder that contains the ``version_N`` folders of one run name.
        function: As for :class:`Ownership`.

    Returns:
        The ownership of the new folder.

    Raises:
        RunFolderError: If the folder cannot be made.
    """
    number = newest_version(home)
    while True:
        folder = home / f"version_{number}"
        if not folder.exists() or _is_abandoned(folder):
            try:
                return Ownership(folder, function)
            except RunFolderError:
                if not folder.exists():
                    raise
        number += 1


def check_vacant(folder: Path, checkpoint: Path | None, *, train: bool) -> None:
    """Refuse to write into a folder that contains another run than the one that is continued.

    Args:
        folder: Folder into which a run will write.
        checkpoint: Checkpoint file or adapter folder that the run loads, if any.
        train: Whether the run is a training. A test may write into the folder of an earlier test.

    Raises:
        RunFolderError: If the folder contains another run, or a ``config.yaml`` that no run has written.
    """
    # The checkpoint may be the folder itself: adapters that were pulled from a hub lie beside their config.
    if checkpoint is not None and checkpoint.resolve().is_relative_to(folder.resolve()):
        return
    trained = [p for p in (LAST, PREVIOUS, BEST, ADAPTER / "adapter.json") if (folder / p).is_file()]
    results = [p for p in ("metrics.json", "predictions") if (folder / p).exists()]
    if trained and not train:
        raise RunFolderError(
            f"{folder} contains a trained run ({trained[0]}), and this is not a test of it. To test it, give"
            f" --ckpt_path {folder}; to write elsewhere, another --run.folder"
        )
    if train and (trained or results):
        found = str((trained or results)[0])
        raise RunFolderError(
            f"{folder} contains a run already ({found}). To continue it, add --ckpt_path auto. To start a"
            f" new run elsewhere, give another --run.folder. To start a new run in this folder, add"
            f" --run.replace true, which moves the present files into its folder earlier/"
        )
    if (folder / "config.yaml").is_file() and not (folder / LOCK).is_file() and not results:
        raise RunFolderError(
            f"{folder / 'config.yaml'} was not written by a run, and this run would write its own there."
            " Give another --run.folder"
        )


def set_run_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run to ``earlier/run-N`` in the same folder.

    Event files of this process are not moved.

    Returns:
        The folder to which the files were moved, or ``None`` if there were no files.
    """
    own = f".{os.getpid()}."
    found = [p for pattern in _MADE for p in sorted(folder.glob(pattern)) if own not in p.name]
    if not found:
        return None
    place = free_place(folder / "earlier", "run")
    place.mkdir(parents=True)
    for path in found:
        path.rename(place / path.name)
    return place


def _is_abandoned(folder: Path) -> bool:
    """Return whether a folder contains only the lock of a run that never began."""
    try:
        return all(path.name == LOCK for path in folder.iterdir())
    except OSError:
        return False


def _lock(file: int) -> bool:
    if os.name != "posix":
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        return err.errno not in (errno.EACCES, errno.EAGAIN)
    return True
