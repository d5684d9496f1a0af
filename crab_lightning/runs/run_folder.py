"""The files of a run folder, and which checkpoint a path means. This module imports no large library.

.lock                     locked by the process that writes into the folder; see ownership.py
config.yaml               resolved config with class names; config.test.yaml etc. for later passes
events.out.tfevents...    TensorBoard; other loggers write into folders of their own names
metrics.json              results by split
predictions/              answers, one file for each dataset
checkpoints/last.ckpt     last state: adapters, optimizer, scheduler, random numbers, position in the data
checkpoints/previous.ckpt the state before it, used when last.ckpt is damaged
checkpoints/best.ckpt     state with the best monitored value
adapter/, adapter/best/   the same adapters alone: adapter.safetensors and adapter.json
earlier/                  tests with other settings, and runs that were replaced
"""

from __future__ import annotations

from pathlib import Path

from crab_lightning.runs.hub import downloaded, in_cache, is_address

AUTO = "auto"
"""This value of ``--ckpt_path`` means the last checkpoint of the run folder, if there is one."""

LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = Path("checkpoints") / "previous.ckpt"
BEST = Path("checkpoints") / "best.ckpt"
ADAPTER = Path("adapter")
ADAPTER_BEST = ADAPTER / "best"


def find_run(path: Path) -> Path | None:
    """Return the run folder to which a checkpoint file, an adapter folder or a run folder belongs, if any.

    A run folder is a folder with ``config.yaml``. The path and three folders above it are searched.
    """
    path = path.absolute()
    return next((p for p in (path, *list(path.parents)[:3]) if (p / "config.yaml").is_file()), None)


def run_of(path: Path, remedy: str = "") -> Path:
    """Return the run folder to which a path belongs, as :func:`find_run` does.

    Raises:
        ValueError: If the path belongs to no run folder. ``remedy`` is the end of the message.
    """
    found = find_run(path)
    if found is None:
        raise ValueError(f"{path} belongs to no run folder with a config.yaml{remedy}")
    return found


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a user means: a file, an adapter folder, or the last state of a run folder.

    Args:
        path: A file; a folder with ``adapter.json``; a run folder; a folder with ``version_0``, ``version_1``
            and so on, of which the newest with a checkpoint is used; or ``hf://OWNER/NAME`` for adapters on a
            model hub, which are downloaded.

    Returns:
        A file, or a folder with ``adapter.json``. A file that the user names may be of any kind.

    Raises:
        FileNotFoundError: If there is no checkpoint. The message says what was searched.
        HubError: If the hub has no such adapters, or cannot be reached.
    """
    if is_address(path):
        return downloaded(path)
    path = Path(path)
    if path.is_file() or (path / "adapter.json").is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(
            f"no checkpoint at {path}: it does not exist. Give a run folder, a .ckpt file or an adapter"
            " folder"
        )
    for run in _runs(path):
        for place in (run / LAST, run / PREVIOUS, run / ADAPTER, run / BEST):
            if place.is_file() or (place / "adapter.json").is_file():
                return place
    raise FileNotFoundError(
        f"no checkpoint in {path}: looked for {LAST}, {ADAPTER}/adapter.json and {BEST}, also in its"
        " version_* folders"
    )


def find_adapter(path: str | Path) -> Path:
    """Return the adapter folder that a user means: the path itself, or the one in a run folder.

    Args:
        path: An adapter folder, a run folder, a folder of ``version_N`` folders, or ``hf://OWNER/NAME``.

    Raises:
        FileNotFoundError: If the path does not exist, or contains no adapter folder.
        HubError: If the hub has no such adapters, or cannot be reached.
    """
    if is_address(path):
        return downloaded(path)
    path = Path(path)
    wanted = "give an adapter folder, a run folder or a file with the released names"
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}; {wanted}")
    for place in (path, *(run / ADAPTER for run in _runs(path))):
        if (place / "adapter.json").is_file():
            return place
    raise FileNotFoundError(
        f"no adapter.json in {path}, nor in {ADAPTER}/ of it or of a version_* folder in it; {wanted}"
    )


def results_folder(checkpoint: Path, given: Path | None, name: str) -> Path:
    """Return the folder into which a command writes its results.

    Args:
        checkpoint: The checkpoint with which the command works.
        given: Folder that the user has chosen, if any.
        name: Name of the folder in the run folder that is used otherwise.

    Raises:
        ValueError: If the checkpoint belongs to no run folder that results may be written into.
    """
    if given is not None:
        return given
    if in_cache(checkpoint):
        raise ValueError(
            f"{checkpoint} is in the cache of the hub, where no results are kept; give --out FOLDER"
        )
    return run_of(checkpoint, "; give --out and --config") / name


def newest_version(home: Path) -> int:
    """Return the highest N of the ``version_N`` folders of a run name, or 0 if there are none."""
    names = [p.name.removeprefix("version_") for p in home.glob("version_*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _runs(path: Path) -> list[Path]:
    """Return a folder and the ``version_N`` folders in it, the newest first."""
    return [path, *sorted(path.glob("version_*"), key=lambda p: p.stat().st_mtime, reverse=True)]
