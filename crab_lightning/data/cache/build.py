"""Fills a media cache before a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crab_lightning.data.cache.ray_build import run_on_ray
from crab_lightning.data.cache.recipes import Recipe, plan
from crab_lightning.data.cache.store import MediaCache
from crab_lightning.data.check.pool import Failure, run_isolated
from crab_lightning.data.loading import heard_window
from crab_lightning.data.manifests.files import has_test
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.media import AudioWindowError, MediaError, MediaLimits, Resizer
from crab_lightning.processing import Geometry
from crab_lightning.structures import DatasetSpec

Job = tuple[Path, Recipe]


@dataclass
class BuildReport:
    """The result of :func:`build_cache`.

    Args:
        known: Number of media that were in the cache before.
        added: Number of media that were added.
        unstored: Number of media for which there was not enough space.
        broken: Error message of each file that could not be decoded.
    """

    known: int
    added: int
    unstored: int
    broken: dict[Path, str]


def build_cache(
    root: Path,
    datasets: Mapping[str, DatasetSpec],
    folder: Path,
    *,
    geometry: Geometry = "released",
    resize: Resizer = "torch",
    max_bytes: int | None = None,
    workers: int = 0,
    ray: bool = False,
    timeout_s: float = 300.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> BuildReport:
    """Decode the media of every manifest row that are not yet in a cache.

    The same call continues an interrupted one. Several calls may work on one folder at the same time.

    Args:
        root: Folder that contains ``AVUIE_2/``.
        datasets: The datasets, with the same settings as in the run.
        folder: Folder of the cache.
        geometry: The value of ``data.geometry`` in the run, which decides which part of a clip is heard.
        resize: The value of ``data.resize`` in the run.
        max_bytes: Largest size of the folder; ``None`` for no limit.
        workers: Number of processes that decode. With 0, this process decodes.
        ray: Decode as a Ray Data job, on every machine of the cluster to which this machine belongs. All
            machines must share the file system of ``root`` and ``folder``.
        timeout_s: Longest time for one file in seconds.
        progress: Called with ``"files"``, the number of finished files and the number of all files.

    Returns:
        The numbers of known, added and unstored media, and the errors.

    Raises:
        ManifestError: If a manifest cannot be read or names missing media.
        CacheError: If the folder contains something else than a cache.
        ModuleNotFoundError: If ``ray`` is set and Ray is not installed.
    """
    _cache_of.cache_clear()
    cache = _cache_of(folder, max_bytes)  # made before the fork, so that the children have its index
    todo: dict[Job, None] = {}
    known: set[Job] = set()
    for name, spec in datasets.items():
        window = heard_window(spec, geometry)
        tested = has_test(root, name, spec)
        splits: list[Literal["train", "test"]] = ["train", "test"] if tested else ["train"]
        for split in splits:
            for sample in read_manifest(root, name, spec, split):
                needed = plan(sample, spec, window, resize)
                jobs: list[Job] = [*needed.videos, *needed.images, *needed.audios]
                for job in jobs:
                    if job in todo or job in known:
                        continue
                    if cache.holds(*job):
                        known.add(job)
                    else:
                        todo[job] = None
    report = BuildReport(len(known), 0, 0, {})
    work = functools.partial(_build, folder=folder, max_bytes=max_bytes)
    results = (
        run_on_ray(work, todo, timeout_s) if ray else run_isolated(work, todo, workers, timeout_s=timeout_s)
    )
    for done, ((path, _), result) in enumerate(results, start=1):
        if isinstance(result, Failure):
            report.broken[path] = f"{path}: {result.message}"
        elif isinstance(result, str):
            report.broken[path] = result
        elif result:
            report.added += 1
        else:
            report.unstored += 1
        if progress is not None:
            progress("files", done, len(todo))
    return report


def _build(job: Job, folder: Path, max_bytes: int | None) -> bool | str:
    """Return whether a medium is in the cache now, or the error message about its file."""
    cache = _cache_of(folder, max_bytes)
    before = cache.stats.unstored
    try:
        cache.read(*job, MediaLimits())
    except (MediaError, AudioWindowError, OSError) as err:
        path = job[0]
        return str(err) if str(path) in str(err) else f"{path}: {err}"
    return cache.stats.unstored == before


@functools.lru_cache(maxsize=1)
def _cache_of(folder: Path, max_bytes: int | None) -> MediaCache:
    return MediaCache(folder, max_bytes)
