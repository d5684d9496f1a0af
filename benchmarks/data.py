"""Samples a second: from the media cache, from disk, and the way of the released code.

python benchmarks/data.py                                  # clips made here
python benchmarks/data.py --clips a.mp4 b.mp4 c.mp4        # your own, each with its sound as .mp3 beside it
python benchmarks/data.py --decord DIR --librosa DIR       # as benchmarks/media.py

A sample is what a loader worker makes: 10 frames and 10 s of sound, the spectrogram, patches, tokens and
labels. "released" is re-created from its description, see benchmarks/media.py. One core; the variants of a
round run in shuffled order; medians over rounds. Time is that of the process (user and system), since the
machine may be busy; the cache is hot, so a first read from a cold disk comes on top (about 1 ms for 1.8 MB).
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from media import ANSWER, FRAMES, PROMPT, SIZE_PX, load, make_clip, released_frames, sample_variants
from rich.console import Console
from rich.table import Table

from crab_lightning.data.cache.recipes import VideoRecipe
from crab_lightning.data.cache.shards import ShardStore
from crab_lightning.data.cache.store import MediaCache
from crab_lightning.data.loading import load_media
from crab_lightning.media import read_video
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import DatasetSpec, Example, Media, Sample

SPEC = DatasetSpec("event_localization", "ave", frames=FRAMES, size_px=SIZE_PX)
CONVERSATION = ("This is a video and an audio:", Media.VIDEO, Media.AUDIO, PROMPT)


def sample_of(path: Path) -> Sample:
    return Sample(
        id=path.stem,
        dataset="ave",
        task="event_localization",
        split="train",
        clip=path.stem,
        videos=(path,),
        audios=(path.with_suffix(".mp3"),),
    )


def variants(args: argparse.Namespace, checkpoint: Path, folder: Path) -> dict[str, Callable[[Path], Any]]:
    decord, librosa = load("decord", args.decord), load("librosa", args.librosa)
    processor, cache, store = NativeProcessor(checkpoint), MediaCache(folder), ShardStore(folder / "bare")

    def bare(path: Path) -> Any:
        key = (hash(path) % 2**64, 0)
        if store.find(key) is None:
            store.append([key], read_video(path, FRAMES, SIZE_PX).frames, 0.0)
        record = store.find(key)
        assert record is not None
        return store.load(record)

    def sample(path: Path, kept: MediaCache | None) -> Any:
        loaded = load_media(sample_of(path), SPEC, "released", kept)
        return processor.encode(
            Example(
                sample_of(path),
                CONVERSATION,
                ANSWER,
                videos=loaded.videos,
                audios=loaded.audios,
                seconds_per_grid=loaded.seconds_per_grid,
            )
        )

    return {
        "released, whole sample": sample_variants(decord, librosa, checkpoint)["released"],
        "released, frames alone": released_frames(decord),
        "disk, media alone": lambda path: load_media(sample_of(path), SPEC, "released"),
        "disk, whole sample": lambda path: sample(path, None),
        "cache, bare read of frames": bare,
        "cache, frames alone": lambda path: cache.read(path, VideoRecipe(FRAMES, SIZE_PX)),
        "cache, media alone": lambda path: load_media(sample_of(path), SPEC, "released", cache),
        "cache, whole sample": lambda path: sample(path, cache),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", nargs="+", type=Path, help="videos with their sound as .mp3 beside them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="reads of a cached clip in one measurement")
    parser.add_argument("--checkpoint", type=Path, help="processor's folder; a tiny one is made if left out")
    parser.add_argument("--decord", metavar="DIR", help="folder that decord was installed into")
    parser.add_argument("--librosa", metavar="DIR", help="folder that librosa was installed into")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clips = args.clips or [work / "360p_10s.mp4"]
        if not args.clips:
            make_clip(clips[0], "360p_10s")
        checkpoint = args.checkpoint
        if checkpoint is None:
            from crab_lightning.mini.checkpoints.native import make_tiny_native

            checkpoint = work / "tiny"
            make_tiny_native(checkpoint)
        ways = variants(args, checkpoint, work / "cache")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():  # warm: imports, page cache, checksums of first reads
            for clip in clips:
                way(clip)
        for _ in range(args.rounds):
            for name in random.sample(list(ways), len(ways)):
                repeats = args.repeats if name.startswith("cache") else 1
                began = time.process_time()
                for _ in range(repeats):
                    for clip in clips:
                        ways[name](clip)
                seconds[name].append((time.process_time() - began) / repeats / len(clips))
    table = Table("", "ms", "samples/s", "x released", title=f"one core, {len(clips)} clips, CPU time")
    for name, times in seconds.items():
        median = statistics.median(times)
        against = "released, whole sample" if "whole" in name else "released, frames alone"
        ratio = statistics.median(r / t for r, t in zip(seconds[against], times, strict=True))
        table.add_row(name, f"{1e3 * median:.2f}", f"{1 / median:,.0f}", f"{ratio:,.1f}")
    Console().print(table)
    ratio = statistics.median(
        d / c for d, c in zip(seconds["disk, whole sample"], seconds["cache, whole sample"], strict=True)
    )
    print(f"cache over disk, whole sample: {ratio:.1f}x")
    for name, folder_given in (("decord", args.decord), ("librosa", args.librosa)):
        if load(name, folder_given) is None:
            print(f"{name} is absent: PyAV stands in for it, see benchmarks/media.py")


if __name__ == "__main__":
    main()
