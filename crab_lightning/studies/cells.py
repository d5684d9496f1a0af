"""The cells of a study on disk: their settings, their states, and the processes that run them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from crab_lightning import __version__
from crab_lightning.configuration.files import ConfigError, flat_keys, found_path
from crab_lightning.data.manifests.files import FORMATS, dataset_folder
from crab_lightning.files import (
    DamagedFileError,
    digest_of,
    free_place,
    read_json,
    replace_json,
    replace_text,
)
from crab_lightning.reports.runs import find_results
from crab_lightning.structures import DatasetSpec
from crab_lightning.studies.study import Cell

CONFIG, STATE, LOCK, LOG = "cell.yaml", "cell.json", "cell.lock", "cell.log"

Status = Literal["done", "running", "interrupted", "failed", "new", "other settings", "damaged"]
Command = Callable[[Sequence[str]], None]
"""A function that runs one command of the command line, given as words, and raises an error if it fails."""

_MODEL = "model.init_args."
_READ = 10_000_000  # number of bytes of each file of weights that are compared

# These keys change the speed or the name of a cell, but not its result.
_SPEED_ONLY = {
    "data.num_workers", "data.prefetch_batches", "data.cache", "data.cache_gb", "data.load_timeout_s",
    "data.eval_batch_size", "trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.logger",
    "trainer.devices", "trainer.num_nodes", "checkpoint.every_n_steps", "evaluator.print_table", "run.name",
}  # fmt: skip


@dataclass(frozen=True)
class CellState:
    """The state of a cell.

    Args:
        cell: The cell.
        status: ``new``: nothing was made. ``running``: a process works on the cell. ``interrupted``: the cell
            can be continued. ``done``. ``failed``. ``other settings``: the cell was made with other settings.
            ``damaged``: a file of the cell cannot be read.
        detail: The error of a failed cell, the settings that differ, or the damaged file and the remedy.
        seconds: Time that the cell has taken, in seconds, over all its attempts; 0 for the states ``new``,
            ``other settings`` and ``damaged``.
    """

    cell: Cell
    status: Status
    detail: str = ""
    seconds: float = 0.0


def identity(cell: Cell) -> dict[str, Any]:
    """Return all that decides the result of a cell.

    Returns:
        The settings, the version of the package, and checksums of the manifests, of the base weights and of
        the other files of the model; under ``hash``, a checksum of all of these.
    """
    flat = {k: v for k, v in flat_keys(cell.config) if not _is_speed(k)}
    content: dict[str, Any] = {"version": __version__, "settings": json.loads(json.dumps(flat, default=str))}
    data = cell.config["data"]
    root = str(data.get("root"))
    content["manifests"] = {name: _manifests(*_place(root, name, data["datasets"])) for name in cell.datasets}
    pretrained = flat.get(f"{_MODEL}pretrained")
    content["weights"] = None if pretrained is None else _weights(str(pretrained))
    # Connectors and other files of the model: only values that look like a path.
    paths = {key: str(v) for key, v in flat.items() if key.startswith(_MODEL) and "/" in str(v)}
    paths.pop(f"{_MODEL}pretrained", None)
    if files := {key: _weights(path) for key, path in paths.items() if Path(found_path(path)).exists()}:
        content["files"] = files
    content["hash"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return content


def state_of(cell: Cell) -> CellState:
    """Return the state of a cell, without changing anything."""
    try:
        content = _read(cell)
        if content is None:
            return CellState(cell, "new")
        if differing := difference(content["identity"], identity(cell)):
            return CellState(cell, "other settings", differing)
        if content["state"] == "done":
            find_results(cell.folder)
    except ValueError as err:
        return CellState(cell, "damaged", str(err))
    if content["state"] in ("done", "failed"):
        return CellState(cell, content["state"], content.get("error", ""), content.get("seconds", 0.0))
    return CellState(cell, "running" if _is_locked(cell) else "interrupted", "", content.get("seconds", 0.0))


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a text that names the first keys in which two identities differ; empty if they are the same."""
    if before.get("hash") == now.get("hash"):
        return ""
    # An empty mapping, such as that of a missing folder of manifests, does not count as a key.
    old, new = ({k: v for k, v in flat_keys(one) if v != {}} for one in (before, now))
    known = (key for key in {*old, *new} - {"hash"} if not _is_speed(key.removeprefix("settings.")))
    keys = [key for key in sorted(known) if old.get(key) != new.get(key)]
    if not keys:
        return ""
    root = new.get("settings.data.root")

    def shown_value(key: str) -> str:
        if key.startswith("manifests.") and key not in new:
            return f"now not found under data.root {root!r}, seen from {Path.cwd()}"
        return f"now {new.get(key)!r}"

    shown = [
        f"{key.removeprefix('settings.')}: made with {old.get(key)!r}, {shown_value(key)}" for key in keys[:3]
    ]
    return "; ".join(shown) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


class CellTakenError(BlockingIOError):
    """An error: another process works on the cell."""


def run_cell(cell: Cell, command: Command) -> None:
    """Train and test a cell, or continue a cell that was interrupted.

    A finished cell is left as it is. If ``command`` raises an error, the error is written into the folder of
    the cell and raised again.

    Args:
        cell: The cell.
        command: Function that runs ``fit`` and ``test``.

    Raises:
        ConfigError: If the folder contains a cell that was made with other settings.
        DamagedFileError: If the state of the cell cannot be read.
        CellTakenError: If another process works on the cell.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    with _locked(cell):
        content = _read(cell)
        own = identity(cell)
        if content is not None and (differing := difference(content["identity"], own)):
            raise ConfigError(f"{cell.folder} was made with other settings: {differing}")
        if content is not None and content["state"] == "done":
            return
        before = 0.0 if content is None else float(content.get("seconds", 0.0))
        config = yaml.safe_dump(dict(cell.config), sort_keys=False, allow_unicode=True)
        replace_text(cell.folder / CONFIG, config)
        began = time.perf_counter()

        def write(state: str, **more: Any) -> None:
            seconds = round(before + time.perf_counter() - began, 3)
            _write(cell, {"state": state, "seconds": seconds, "identity": own} | more)

        write("running", process=os.getpid(), machine=platform.node())
        try:
            words = ["--config", str(cell.folder / CONFIG), "--run.folder", str(cell.folder)]
            command(["fit", *words, "--ckpt_path", "auto"])
            command(["test", *words, "--ckpt_path", str(cell.folder)])
        except BaseException as err:
            # Lightning ends an interrupted run by SystemExit. The parser exits with status 2 on a wrong key.
            stopped = isinstance(err, KeyboardInterrupt) or (isinstance(err, SystemExit) and err.code != 2)
            with suppress(OSError):  # on a full disk, the error is raised nevertheless
                if stopped:
                    write("interrupted")
                else:
                    write("failed", error=f"{type(err).__name__}: {err}", traceback=traceback.format_exc())
            raise
        write("done")


def fail(cell: Cell, error: str) -> None:
    """Write ``failed`` into the state of a cell whose process ended before it could write it.

    This is so after a process was killed, for example for lack of memory. Nothing is written if another
    process works on the cell, or if the state is not ``running``.

    Args:
        cell: The cell.
        error: The text that is written.
    """
    if _is_locked(cell):  # another process continues it
        return
    with suppress(DamagedFileError, OSError):  # the caller reports the error nevertheless
        content = _read(cell)
        if content is not None and content["state"] == "running":
            _write(cell, content | {"state": "failed", "error": error})


def set_aside(cell: Cell) -> Path:
    """Move the folder of a cell into ``replaced/``, so that the cell can be made again.

    Returns:
        The new place of the folder.

    Raises:
        CellTakenError: If another process works on the cell.
    """
    home = cell.folder.parents[1] / "replaced"
    place = free_place(home, cell.name)
    home.mkdir(parents=True, exist_ok=True)
    with _locked(cell):
        cell.folder.rename(place)
    return place


@contextmanager
def _locked(cell: Cell) -> Iterator[None]:
    """Lock a cell against other processes; the system releases the lock when the process ends."""
    with (cell.folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise CellTakenError(f"another process works on {cell.folder}; wait until it ends") from err
        yield


def _is_locked(cell: Cell) -> bool:
    """Return whether a process works on a cell; the folder need not be writable."""
    try:
        with (cell.folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _read(cell: Cell) -> dict[str, Any] | None:
    """Return the state file of a cell; ``None`` if nothing was made.

    Raises:
        DamagedFileError: If the file cannot be read, or if it is missing in a folder that contains results:
            such a cell must not be continued.
    """
    path = cell.folder / STATE
    remedy = (
        "Remove the folder of the cell, or call `study run` with --replace, which moves it to replaced/;"
        " the cell is then made again"
    )
    if not path.is_file():
        if (cell.folder / "checkpoints").is_dir() or (cell.folder / "metrics.json").is_file():
            raise DamagedFileError(
                f"{path} is missing, and nothing else says with which settings these results were made."
                f" {remedy}"
            )
        return None
    content = read_json(path, remedy)
    if (
        content.get("state") not in ("running", "interrupted", "failed", "done")
        or not isinstance(content.get("identity"), dict)
        or not isinstance(content.get("seconds", 0.0), int | float)
    ):
        raise DamagedFileError(
            f"{path} does not contain the state, the identity and the seconds of a cell. {remedy}"
        )
    if content["state"] == "done" and not (cell.folder / "metrics.json").is_file():
        return content | {"state": "interrupted"}  # the results were removed; testing makes them again
    return content


def _write(cell: Cell, content: Mapping[str, Any]) -> None:
    replace_json(cell.folder / STATE, dict(content), indent=1)


def _place(root: str, dataset: str, rows: Mapping[str, Mapping[str, Any]]) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of a dataset's manifests, and the files in it that the dataset's entry names."""
    row = rows[dataset]
    spec = DatasetSpec("", str(row.get("layout", "")), folder=row.get("folder"))
    named = [str(row[key]) for key in ("train_file", "test_file") if row.get(key)]
    return dataset_folder(Path(root), dataset, spec), tuple(named)


@lru_cache(maxsize=256)
def _manifests(folder: Path, named: tuple[str, ...]) -> dict[str, str]:
    """Return a checksum of each manifest of a dataset."""
    found = {path.name: path for path in folder.glob("*") if path.suffix in FORMATS}
    found |= {name: folder / name for name in named}
    return {name: digest_of(path)[:16] for name, path in sorted(found.items()) if path.is_file()}


@lru_cache(maxsize=16)
def _weights(pretrained: str) -> str:
    """Return a checksum of the names, sizes and contents of some files; a name on the hub is returned as is.

    Only the end of a large file is read: two different sets of weights differ everywhere.
    """
    place = Path(found_path(pretrained))
    if not place.exists():
        return pretrained
    digest = hashlib.sha256()
    for path in sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(place)} {size}\n".encode())
        with path.open("rb") as file:
            file.seek(max(size - _READ, 0))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _is_speed(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _SPEED_ONLY)
