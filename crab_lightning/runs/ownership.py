"""Who may write into a run folder: one process at a time, and never over another run by accident."""

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
"""In a run folder: locked by the process that writes into it, and a sign that a run of this package did."""

# What a run makes, and what `--run.replace` therefore moves away.
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
    """A run folder that another process writes into, that holds another run, or that cannot be written."""


class Ownership:
    """The exclusive right to write into one run folder, held until :meth:`release` or the process's end.

    The lock is the operating system's (``fcntl.lockf``): a process that dies does not keep it, and the
    loader processes that it has forked never held it. Where a file system has no locks, the run goes on
    without.

    Args:
        folder: The run folder; made when it is absent.
        function: What is run, for the message that another process shows.

    Raises:
        RunFolderError: If another process writes into the folder, or it cannot be made or written into.
    """

    def __init__(self, folder: Path, function: str) -> None:
        self.folder = folder
        self.is_new = not folder.exists() or _is_abandoned(folder)
        """Whether nothing was in the folder before."""
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
        with suppress(OSError):  # a full disk: the lock is held all the same
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)

    def release(self, *, keep: bool = True) -> None:
        """Let others write.

        Args:
            keep: Leave a folder that was not there before; otherwise it is removed with all that is in it.
        """
        if self._file is None:
            return
        if not keep and self.is_new:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._file)
        self._file = None


def own_new_version(home: Path, function: str) -> Ownership:
    """Take the next free ``version_N`` of a folder of runs; two processes never get the same one.

    Args:
        home: Folder that holds the versions of one run name.
        function: As for :class:`Ownership`.
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
    """Refuse to write over a run that was not named as the one to go on with.

    Args:
        folder: Where a run is about to write.
        checkpoint: What it goes on from, if anything: a file or folder.
        train: Whether it is a training; a test belongs into the folder of an earlier test as well.

    Raises:
        RunFolderError: If the folder holds another run, or a ``config.yaml`` that no run has written.
    """
    # The folder itself: adapters that were pulled from a hub lie beside their config.
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
    """Move what an earlier run made to ``earlier/run-N`` of its folder; return where it is, if there is any.

    Event files that this process writes are left.
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
    """Tell whether a folder holds nothing but the lock of a run that ended before it began."""
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
