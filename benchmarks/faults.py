"""Faults put into the data path and into runs, what came of them and what was lost: a table.

python benchmarks/faults.py data                 # the media cache; makes Mini AV-UIE with 40 clips first
python benchmarks/faults.py run                  # training, saving and testing of a tiny model
python benchmarks/faults.py ranks                # two processes on a CPU, under DDP and FSDP2
python benchmarks/faults.py files                # media, configs, caches, checkpoints that were made to harm
python benchmarks/faults.py all --root ROOT      # on a data root of your own, which is only read

A row is a fault, injected as often as it says. "lost" is what a run would not get back: samples that the
loader no longer gives, or gives with other values than a plain decode; weights, optimizer state, random
numbers and data position that differ, in any bit, from those of the run that nothing happened to; for files
that were made to harm, the time and the memory that one of them took.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from crab_lightning.commands import main as cli
from crab_lightning.data.cache.build import build_cache
from crab_lightning.data.cache.recipes import plan
from crab_lightning.data.cache.store import MediaCache
from crab_lightning.data.loading import LoadedMedia, load_media
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import AudioWindow, DatasetSpec, Sample

ROWS = {
    "ks": DatasetSpec("action_recognition", "ks"),
    "ave": DatasetSpec("event_localization", "ave"),
    "s4": DatasetSpec("segmentation", "s4", audio=AudioWindow("one_unit", units=5)),
}
FORK = multiprocessing.get_context("fork")
Found = tuple[str, str]


def samples(root: Path) -> Iterator[tuple[Sample, DatasetSpec]]:
    for name, spec in ROWS.items():
        for sample in read_manifest(root, name, spec, "train"):
            yield sample, spec


def lost(root: Path, truth: dict[str, LoadedMedia], cache: MediaCache) -> int:
    """Return how many samples differ from a plain decode when read through a cache."""
    wrong = 0
    for sample, spec in samples(root):
        got, right = load_media(sample, spec, "released", cache), truth[sample.id]
        pairs = zip(
            (*got.videos, *got.images, *got.audios),
            (*right.videos, *right.images, *right.audios),
            strict=True,
        )
        wrong += not all(torch.equal(a, b) for a, b in pairs)
    return wrong


def damage_shards(folder: Path, harm: Callable[[Path], None]) -> int:
    shards = sorted((folder / "shards").glob("*.bin"))
    for shard in shards:
        harm(shard)
    return len(shards)


def flip(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    for _ in range(5):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    shard.write_bytes(data)


def halve(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def damaged_shards(root: Path, truth: dict[str, LoadedMedia], work: Path) -> Iterator[tuple[str, Found]]:
    for name, harm in (("5 bits flipped in every shard", flip), ("every shard cut in half", halve)):
        folder = work / name.replace(" ", "_")
        build_cache(root, ROWS, folder, workers=1)
        damage_shards(folder, harm)
        cache = MediaCache(folder)
        wrong = lost(root, truth, cache)
        again = MediaCache(folder)
        wrong += lost(root, truth, again)
        what = (
            f"{cache.stats.repaired} records found damaged, decoded again and replaced; then "
            f"{again.stats.hits} hits, {again.stats.repaired} damaged"
        )
        yield name, (what, f"{wrong} samples")


def kill_writers(root: Path, truth: dict[str, LoadedMedia], work: Path, times: int) -> Found:
    began = time.monotonic()
    build_cache(root, ROWS, work / "timed")
    whole_s = time.monotonic() - began
    killed = finished = shrunk = wrong = 0
    folder, before = work / "killed_0", 0
    while killed < times:
        writer = FORK.Process(target=build_cache, args=(root, ROWS, folder))
        writer.start()
        time.sleep(random.uniform(0, whole_s / 8))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        now = len(MediaCache(folder))
        shrunk += now < before
        before = now
        if writer.exitcode == -signal.SIGKILL:
            killed += 1
        if len(missing_media(root, folder)) == 0:  # filled: begin anew
            finished += 1
            wrong += lost(root, truth, MediaCache(folder))
            folder, before = work / f"killed_{finished}", 0
    build_cache(root, ROWS, folder, workers=1)
    wrong += lost(root, truth, MediaCache(folder))
    what = (
        f"{killed} builds killed while at work; each later call went on from what was stored "
        f"({shrunk} lost any of it), {finished + 1} caches were filled in this way"
    )
    return what, f"{wrong} samples"


def missing_media(root: Path, folder: Path) -> list[Path]:
    """Return the media that a cache does not hold."""
    cache = MediaCache(folder)
    missing = []
    for sample, spec in samples(root):
        needed = plan(sample, spec, spec.audio)
        media = [*needed.videos, *needed.images, *needed.audios]
        missing += [path for path, recipe in media if not cache.holds(path, recipe)]
    return missing


def fill_disk(root: Path, truth: dict[str, LoadedMedia], work: Path) -> Found:
    """Limit the size of files in a child: writing beyond it fails as on a full disk."""
    folder = work / "full"
    near, far = FORK.Pipe()

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with an error
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        cache = MediaCache(folder)
        far.send((lost(root, truth, cache), cache.stats))

    child = FORK.Process(target=limited)
    child.start()
    wrong, stats = near.recv()
    child.join()
    after = lost(root, truth, MediaCache(folder))
    what = (
        f"{stats.stored} media stored, {stats.unstored} decoded without storing, one warning; readable after"
    )
    return what, f"{wrong + after} samples"


def data_faults(root: Path, work: Path, kills: int) -> Iterator[tuple[str, Found]]:
    logging.disable(logging.WARNING)  # each fault is reported; here the table does so
    truth = {sample.id: load_media(sample, spec, "released") for sample, spec in samples(root)}
    yield f"SIGKILL while caching, {kills} times", kill_writers(root, truth, work, kills)
    yield "disk full while caching", fill_disk(root, truth, work)
    yield from damaged_shards(root, truth, work)
    logging.disable(logging.NOTSET)


def run_faults(root: Path, work: Path, kills: int) -> Iterator[tuple[str, Found]]:
    import run_faults as faults
    from short_runs import Runs

    runs = Runs(root, work)
    for where in ("training", "saving"):
        yield f"SIGKILL in {where}, {kills} times", faults.kill_runs(runs, where, kills)
    yield f"SIGKILL in testing, {kills} times", faults.kill_tests(runs, kills)
    yield "disk full while saving", faults.fill_disk(runs)
    yield "disk full from the start", faults.full_from_the_start(runs)
    yield "two runs into one folder", faults.two_at_once(runs)
    yield from faults.stop_runs(runs)
    yield from faults.damage_checkpoints(runs)


def rank_faults(root: Path, work: Path, kills: int) -> Iterator[tuple[str, Found]]:
    import run_faults as faults
    from short_runs import Runs

    runs = Runs(root, work)
    for strategy in ("ddp", "fsdp2"):
        yield from faults.kill_ranks(runs, strategy)


def file_faults(root: Path, work: Path, kills: int) -> Iterator[tuple[str, Found]]:
    import file_faults as faults

    yield from faults.file_faults(root, work, kills)


AREAS = {"data": data_faults, "run": run_faults, "ranks": rank_faults, "files": file_faults}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("area", choices=(*AREAS, "all"), help="which faults")
    parser.add_argument("--root", type=Path, help="data root; Mini AV-UIE is made when left out")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs at random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder to keep runs and logs in; removed when left out")
    args = parser.parse_args()
    random.seed(args.seed)
    torch.set_num_threads(1)
    work = args.work or Path(tempfile.mkdtemp(prefix="faults_"))
    table = Table("fault", "what happened", "lost")
    try:
        root = args.root
        if root is None and args.area != "files":
            root = work / "mini"
            cli(["data", "mini", "--root", str(root), "--clips", "40", "--workers", "0"])
        for name in AREAS if args.area == "all" else [args.area]:
            for fault, found in AREAS[name](root, work / name, args.kills):
                print(f"{fault}: {found[0]}; lost: {found[1]}", flush=True)  # a later one may fail
                table.add_row(fault, *found)
        Console().print(table)
    finally:
        if args.work is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
