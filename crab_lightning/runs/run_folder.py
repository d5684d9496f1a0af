"""Where things lie in a run folder, and which checkpoint a path means; imports nothing heavy.

.lock                     locked by the process that writes into the folder; see ownership.py
config.yaml               resolved config, closed sets included; config.test.yaml etc. for later passes
events.out.tfevents...    TensorBoard; other loggers write into folders of their own names
metrics.json              results by split
predictions/              answers, one file per dataset
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
"""As checkpoint of ``fit``: the last state of the run folder if it has one."""

LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = Path("checkpoints") / "previous.ckpt"
BEST = Path("checkpoints") / "best.ckpt"
ADAPTER = Path("adapter")
ADAPTER_BEST = ADAPTER / "best"


def find_run(path: Path) -> Path | None:
    """Return the run folder that a checkpoint file, adapter folder or run folder belongs to.

    A run folder is one that holds ``config.yaml``.
    """
    path = path.absolute()
    return next((p for p in (path, *list(path.parents)[:3]) if (p / "config.yaml").is_file()), None)


def run_of(path: Path, remedy: str = "") -> Path:
    """Return the run folder that something belongs to, as :func:`find_run` finds it.

    Raises:
        ValueError: If it belongs to none; ``remedy`` ends the message.
    """
    found = find_run(path)
    if found is None:
        raise ValueError(f"{path} belongs to no run folder with a config.yaml{remedy}")
    return found


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a user means: a file, an adapter folder, or the last state in a run folder.

    Args:
        path: A ``.ckpt`` file; a folder with ``adapter.json``; a run folder; a folder of runs (``version_0``,
            ``version_1``, ...), of which the newest with a checkpoint counts; or ``hf://OWNER/NAME``,
            adapters on a model hub, which are downloaded.

    Returns:
        A ``.ckpt`` file, or a folder with ``adapter.json``.

    Raises:
        FileNotFoundError: If nothing of this kind is there; the text says what was looked for.
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
    """Return the adapter folder that a user means: this one, or that of a run folder or its newest version.

    Raises:
        FileNotFoundError: If there is no such path, or none in it.
        HubError: If it is the address of adapters on a hub, and they cannot be had.
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
    """Return the folder that the results of a command go to.

    Args:
        checkpoint: The checkpoint that it works with.
        given: Folder that the user chose, which is taken as it is.
        name: Name of the folder that is otherwise taken in the checkpoint's run folder.

    Raises:
        ValueError: If the checkpoint belongs to no run folder that results may be written into.
    """
    if given is not None:
        return given
    if in_cache(checkpoint):
        raise ValueError(
            f"{checkpoint} lies in the cache of the hub, where no results are kept; give --out FOLDER"
        )
    return run_of(checkpoint, "; give --out and --config") / name


def newest_version(home: Path) -> int:
    """Return the highest N of the ``version_N`` folders of a run name; 0 without any."""
    names = [p.name.removeprefix("version_") for p in home.glob("version_*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _runs(path: Path) -> list[Path]:
    """Return a folder and the runs in it, the newest first."""
    return [path, *sorted(path.glob("version_*"), key=lambda p: p.stat().st_mtime, reverse=True)]
