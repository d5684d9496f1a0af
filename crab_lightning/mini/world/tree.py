"""Writes Mini AV-UIE to a folder with the file layout of AV-UIE v2."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from crab_lightning.files import read_json, replace_bytes
from crab_lightning.media import write_audio, write_video
from crab_lightning.mini.world.annotations import official_annotations
from crab_lightning.mini.world.datasets import DATASETS, TEST_FRACTION, make_item, row_of, share_out
from crab_lightning.mini.world.item import FPS, Item, MediaFile
from crab_lightning.mini.world.render import render_audio, render_frames, render_masks
from crab_lightning.mini.world.scenes import FRAME_PX, Scene
from crab_lightning.structures import SAMPLE_RATE_HZ

MARK = "mini.json"
"""Name of the file in the root folder that says how the data were made, and whether they are complete."""
VERSION = 2
"""This number increases with every change of the code after which a seed gives other rows or media."""

Counts = dict[str, tuple[int, int]]


def write_mini(
    root: str | Path,
    clips: int = 400,
    seed: int = 0,
    workers: int = 2,
    *,
    test_fraction: float = TEST_FRACTION,
    counts: Mapping[str, tuple[int, int]] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Counts:
    """Write Mini AV-UIE with 19 train and 16 test manifests, their media and official annotation files.

    The same seed gives the same manifests, byte for byte. Clip number k of a split does not depend on the
    number of clips. If a call was interrupted, the same call writes what is missing.

    Args:
        root: The data root: a new or empty folder, or one that an interrupted call with the same settings
            left.
        clips: Number of clips, which are distributed over all datasets and splits.
        seed: Seed of all random choices.
        workers: Number of processes that write media; with 0, this process writes them.
        test_fraction: Fraction of each dataset's clips that its test file asks about, if it has a test file.
        counts: Numbers of clips in train and in test of some datasets, which replace their part of ``clips``.
        overwrite: Whether to replace a Mini AV-UIE that is in the folder. Other folders are never changed.
        progress: Whether to show a progress bar.

    Returns:
        For each dataset, its numbers of rows in train and in test.

    Raises:
        DamagedFileError: If ``mini.json`` in the folder cannot be read.
        FileExistsError: If ``root`` is a file, or holds anything but a Mini AV-UIE with these settings.
        ValueError: If there are too few clips, the fraction does not lie between 0 and 1, or ``counts`` has
            an unknown dataset or a number that is not possible.
    """
    root = Path(root)
    plan = _plan(share_out(clips, test_fraction), counts)
    claim = {"made_by": "crab_lightning data mini", "version": VERSION, "seed": seed, "clips": plan}
    _claim_root(root, claim, overwrite)
    items = {
        (name, split): [make_item(name, split, i, seed) for i in range(count * DATASETS[name].rows_per_clip)]
        for name, both in plan.items()
        for split, count in zip(("train", "test"), both, strict=True)
        if count
    }
    base = root / "AVUIE_2"
    files = _unique_files(row for rows in items.values() for row in rows)
    for folder in {(base / f.path).parent for group in files for f in group}:
        folder.mkdir(parents=True, exist_ok=True)
    _write_media(base, files, workers, progress)
    _share_clips(base)
    for name, text in official_annotations(items).items():
        _write_text(root / "annotations" / name, text)
    for (name, split), rows in items.items():
        _write_text(base / name / f"{split}.json", _json([row_of(item) for item in rows]))
    # The entry "finished" is written last. If it is missing, the call was interrupted.
    _write_text(root / MARK, _json({**claim, "finished": True}))
    return {name: (len(items.get((name, "train"), ())), len(items.get((name, "test"), ()))) for name in plan}


def _plan(plan: Counts, counts: Mapping[str, tuple[int, int]] | None) -> Counts:
    for name, (train, test) in (counts or {}).items():
        if name not in DATASETS:
            raise ValueError(f"counts names {name!r}; Mini AV-UIE has: {', '.join(DATASETS)}")
        if train < 1 or test < 0 or (test > 0) != bool(DATASETS[name].test):
            needs = "at least 1 in train and " + ("in test" if DATASETS[name].test else "0 in test")
            raise ValueError(f"counts[{name!r}] is ({train}, {test}); it needs {needs}")
        plan[name] = (train, test)
    if counts and "s4" in counts and "arig" not in counts:
        plan["arig"] = plan["s4"]
    return plan


def _claim_root(root: Path, claim: dict[str, Any], overwrite: bool) -> None:
    """Write the file ``MARK`` into the root folder, or raise an error if the folder may not be changed."""
    mark = root / MARK
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"root {root} is a file; name a folder")
    if mark.is_file():
        found = read_json(mark, f"Remove the folder {root}, and make the data again")
        same = {k: found.get(k) for k in claim} == json.loads(json.dumps(claim))
        if not same and not overwrite:
            raise FileExistsError(
                f"root {root} holds a Mini AV-UIE with other settings; its seed is {found.get('seed')} (see "
                f"{mark.name}). Name another folder, or pass overwrite to replace it"
            )
        if overwrite:
            for part in ("AVUIE_2", "annotations"):
                shutil.rmtree(root / part, ignore_errors=True)
            mark.unlink()
    elif root.is_dir() and any(root.iterdir()):
        raise FileExistsError(
            f"root {root} is not empty and holds no Mini AV-UIE, because {MARK} is missing; name a new folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    _write_text(mark, _json(claim))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, text.encode())  # bytes, so that the line ends are the same on every system


def _unique_files(items: Iterable[Item]) -> list[tuple[MediaFile, ...]]:
    """Return the files of all clips, in one group for each clip. A clip of several items occurs once."""
    groups: dict[str, tuple[MediaFile, ...]] = {}
    for item in items:
        if item.files:
            groups.setdefault(item.files[0].path, item.files)
    return list(groups.values())


def _share_clips(base: Path) -> None:
    """Link the folder of the ``s4`` clips into ``arig``, or copy it if the system allows no links."""
    link = base / "arig" / "AVS"
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(Path("..") / "s4" / "AVS", target_is_directory=True)
    except OSError:
        shutil.copytree(base / "s4" / "AVS", link)


def _write_media(base: Path, groups: list[tuple[MediaFile, ...]], workers: int, progress: bool) -> None:
    for half_written in base.rglob(".*"):  # a killed worker left it; see write_whole
        half_written.unlink()
    todo = [g for g in groups if not all((base / f.path).exists() for f in g)]
    write = partial(write_files, base)
    # A forked child would copy the encoder threads of this process; a spawned one does not.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(workers, 1), mp_context=context) as pool:
        done = pool.map(write, todo) if workers > 0 else map(write, todo)
        for _ in track(done, "Mini AV-UIE: clips", total=len(todo), disable=not progress):
            pass


def write_files(base: Path, files: tuple[MediaFile, ...]) -> None:
    """Write the files of one clip that do not exist yet.

    Args:
        base: Folder that holds the manifests.
        files: The files of the clip.
    """
    for file in files:
        write_whole(base / file.path, partial(_write_file, file))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a media file that does not exist yet. An interrupted call leaves no file of this name.

    Args:
        path: The file. Its folder must exist.
        write: Function that writes the file whose path it gets.
    """
    if not path.exists():
        part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        try:
            write(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _write_file(file: MediaFile, path: Path) -> None:
    scene = file.scene
    if file.kind == "video":
        times_s = np.arange(scene.duration_s * FPS) / FPS
        write_video(path, render_frames(scene, times_s.tolist()), FPS, render_audio(scene))
    elif file.kind == "audio":
        write_audio(path, render_audio(scene), SAMPLE_RATE_HZ)
    elif file.kind == "image":
        Image.fromarray(render_frames(scene, [file.time_s])[0]).save(path, quality=92)
    else:
        Image.fromarray(_painted(scene, file)).save(path, compress_level=1)


def _painted(scene: Scene, file: MediaFile) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a mask in colours, ``(H, W, 3)``, or with category numbers from 1 on, ``(H, W)``."""
    masks = render_masks(scene, file.time_s)
    painted = np.zeros((FRAME_PX, FRAME_PX, 3) if file.kind == "mask" else (FRAME_PX, FRAME_PX), np.uint8)
    for index in file.objects:
        obj = scene.objects[index]
        painted[masks[index]] = np.array(obj.kind.rgb) if file.kind == "mask" else (obj.category or 0) + 1
    return painted
