"""Clips a second: reading video through the packet index, from the start, and the way of the released code.

python benchmarks/media.py video                       # frames only, on clips made here
python benchmarks/media.py sample                      # frames, sound, mel, patches, tokens and labels
python benchmarks/media.py video --clips a.mp4 b.mp4   # on your own files
python benchmarks/media.py video --workers 2           # two processes side by side
python benchmarks/media.py video --decord DIR          # DIR from: pip install --target DIR --no-deps decord

Every worker keeps to one core (on Linux) and runs the variants of a round in shuffled order; the table gives
the median over rounds. "released" is a re-creation from descriptions: decord reads frames at full size,
torchvision stretches them, librosa reads sound, the mel is padded to 300 s. Without decord, PyAV decodes the
whole file in its place; without librosa, our own audio reader stands in; each table names what was
used. decord starts threads of its own: on a machine busy with other work they take a larger share of it, so
compare by wall time on an idle machine only.

With --clock cpu, time on a busy machine is that of the process alone (one worker only).
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from crab_lightning.media import read_audio, read_video, write_audio, write_video
from crab_lightning.media.pick import pick_frames
from crab_lightning.media.video import frame_indices
from crab_lightning.structures import Example, Media, Sample

FRAMES, SIZE_PX = 10, 224
PROMPT = "Please describe the events and time range that occurred in the video."
ANSWER = "A man is speaking while a dog barks in the background. " * 8
KINDS = {
    # name: (height, width, seconds, x264 options); bf and refs as x264 sets them by default
    "360p_10s": (360, 640, 10, {"preset": "veryfast", "bf": "3", "crf": "23"}),
    "720p_10s": (720, 1280, 10, {"preset": "veryfast", "bf": "3", "crf": "23"}),
    "360p_60s_long_gop": (360, 640, 60, {"preset": "veryfast", "bf": "3", "crf": "23", "sc_threshold": "0"}),
}
Variant = Callable[[Path], Any]
Seconds = dict[tuple[str, str], list[float]]
BARRIER: Any = None


def make_clip(path: Path, kind: str) -> None:
    """Film a drifting, grainy scene with tones, 25 frames a second."""
    height, width, seconds, options = KINDS[kind]
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (1, 3, 24, 40)).astype(np.float32))
    scene = torch.nn.functional.interpolate(coarse, (height + 128, width + 128), mode="bicubic")[0]
    grain = rng.normal(0, 6, (8, height, width, 1)).astype(np.int16)
    block = scene.permute(1, 2, 0).clamp(0, 255).to(torch.int16).numpy()
    frames = np.empty((250, height, width, 3), np.uint8)
    for i in range(len(frames)):
        y, x = round(64 + 60 * np.sin(i * np.pi / 125)), round(64 + 60 * np.cos(i * np.pi / 125))
        frames[i] = (block[y : y + height, x : x + width] + grain[i % 8]).clip(0, 255)
    frames = np.broadcast_to(frames, (seconds // 10, *frames.shape)).reshape(-1, *frames.shape[1:])
    sound = (0.3 * np.sin(np.arange(seconds * 16_000) ** 1.3 / 900)).astype(np.float32)
    write_video(path, frames, 25, sound, keyframe_every=1500 if "long" in kind else 250, options=options)
    write_audio(path.with_suffix(".mp3"), sound)


def released_frames(decord: Any | None) -> Variant:
    """Full-size RGB of the wanted frames, then torchvision's antialiased bicubic stretch."""
    from torchvision.transforms import InterpolationMode, functional

    def read(path: Path) -> torch.Tensor:
        if decord is not None:
            reader = decord.VideoReader(str(path))
            full = torch.from_numpy(reader.get_batch(frame_indices(len(reader), FRAMES)).asnumpy())
        else:
            with av.open(str(path)) as container:
                wanted = set(frame_indices(container.streams.video[0].frames, FRAMES))
                shown = enumerate(container.decode(video=0))
                full = torch.stack(
                    [torch.from_numpy(f.to_ndarray(format="rgb24")) for i, f in shown if i in wanted]
                )
        stretched: torch.Tensor = functional.resize(
            full.permute(0, 3, 1, 2), [SIZE_PX, SIZE_PX], InterpolationMode.BICUBIC, antialias=True
        )
        return stretched.float()

    return read


def video_variants(decord: Any | None) -> dict[str, Variant]:
    """Ways to the same ten frames."""

    def bare(path: Path) -> Any:
        return pick_frames(path, lambda total: frame_indices(total, FRAMES), lambda frame: torch.zeros(1))

    return {
        "released": released_frames(decord),
        "sequential, torch": lambda p: read_video(p, FRAMES, access="sequential"),
        "index, torch (default)": lambda p: read_video(p, FRAMES),
        "index, torch_uint8": lambda p: read_video(p, FRAMES, resize="torch_uint8"),
        "index, swscale": lambda p: read_video(p, FRAMES, resize="swscale"),
        "floor: index, no pictures": bare,
    }


def sample_variants(decord: Any | None, librosa: Any | None, checkpoint: Path) -> dict[str, Variant]:
    """Ways from files to model inputs: 10 frames, the clip's sound, a prompt and an answer."""
    from transformers import Qwen2VLVideoProcessor, WhisperFeatureExtractor

    from crab_lightning.processing import NativeProcessor

    ours = NativeProcessor(checkpoint)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    patcher = Qwen2VLVideoProcessor(patch_size=14, temporal_patch_size=2, merge_size=2)
    read_released = released_frames(decord)
    video_token, audio_token = ours.tokenizer.video_token, ours.tokenizer.audio_token
    opening = ours.tokenizer("<|im_start|>assistant", return_tensors="pt")["input_ids"][0]
    sample = Sample(id="clip", dataset="ave", task="event_localization", split="train", clip="clip")
    conversation = ("This is a video and an audio:", Media.VIDEO, Media.AUDIO, PROMPT)

    def lean(resize: Any) -> Variant:
        def read(path: Path) -> Any:
            frames = read_video(path, FRAMES, resize=resize).frames
            sound = read_audio(path.with_suffix(".mp3"))
            return ours.encode(
                Example(sample, conversation, ANSWER, videos=[frames], audios=[sound], seconds_per_grid=[2.0])
            )

        return read

    def released(path: Path) -> Any:
        frames = read_released(path)
        sound_path = path.with_suffix(".mp3")
        sound = librosa.load(sound_path, sr=16_000)[0] if librosa else read_audio(sound_path).numpy()
        mel = extractor(sound, sampling_rate=16_000, padding="max_length", return_tensors="pt")
        patches = patcher(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
        text = ours.render(conversation, ANSWER)
        text = text.replace(video_token, video_token * 320).replace(
            audio_token, audio_token * (len(sound) // 640)
        )
        ids = ours.tokenizer(text, return_tensors="pt")["input_ids"][0]
        labels = torch.full_like(ids, -100)
        for start in range(len(ids)):  # the search for the answer: a slice per position
            if torch.equal(ids[start : start + len(opening)], opening):
                labels[start + len(opening) : -1] = ids[start + len(opening) : -1]
                break
        return mel, patches, labels

    return {
        "released": released,
        "index, torch (default)": lean("torch"),
        "index, torch_uint8": lean("torch_uint8"),
        "index, swscale": lean("swscale"),
    }


def load(name: str, folder: str | None) -> Any | None:
    """Import a package that is no dependency, from a folder if given; None when it is absent."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def measure(
    args: argparse.Namespace, clips: dict[str, list[Path]], checkpoint: Path | None
) -> tuple[Seconds, bool, bool]:
    """Time every variant on every set of clips; all workers take the same steps together."""
    torch.set_num_threads(1)
    decord, librosa = load("decord", args.decord), load("librosa", args.librosa)
    variants = (
        sample_variants(decord, librosa, checkpoint) if checkpoint is not None else video_variants(decord)
    )
    now = time.process_time if args.clock == "cpu" else time.perf_counter
    seconds: Seconds = {}
    for name, paths in clips.items():
        for variant, read in variants.items():
            seconds[name, variant] = []
            read(paths[0])  # files into the page cache, code into memory
        for number in range(args.rounds):
            order = list(variants)
            random.Random(number).shuffle(order)
            for variant in order:
                BARRIER.wait(timeout=300)
                start = now()
                for path in paths:
                    variants[variant](path)
                seconds[name, variant].append((now() - start) / len(paths))
    return seconds, decord is not None, librosa is not None


def start_worker(barrier: Any, started: Any) -> None:
    """Give a new worker a core of its own and the barrier that all wait at before each measurement."""
    global BARRIER
    BARRIER = barrier
    with started.get_lock():
        number = started.value
        started.value += 1
    if hasattr(os, "sched_setaffinity"):  # decord starts threads that would take the other worker's core
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def show(args: argparse.Namespace, all_seconds: list[Seconds], notes: str) -> None:
    """Print one table for each set of clips; with several workers their clips a second are added up."""
    for clips in dict.fromkeys(name for name, _ in all_seconds[0]):
        table = Table(
            title=f"{clips}, {args.workers} worker(s), {args.rounds} rounds, {args.clock} time; {notes}"
        )
        for column in ("variant", "ms per clip", "clips/s", "x released", "spread"):
            table.add_column(column, justify="left" if column == "variant" else "right")
        base = 0.0
        for variant in (v for name, v in all_seconds[0] if name == clips):
            times = [statistics.median(seconds[clips, variant]) for seconds in all_seconds]
            rate = sum(1 / t for t in times)
            base = base or rate
            every = [t for seconds in all_seconds for t in seconds[clips, variant]]
            spread = f"{min(every) * 1e3:.0f}..{max(every) * 1e3:.0f}"
            ms = statistics.mean(times) * 1e3
            table.add_row(variant, f"{ms:.1f}", f"{rate:.1f}", f"{rate / base:.2f}", spread)
        Console(width=110).print(table)


def main() -> None:
    """Make clips, start workers, print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("video", "sample"), help="frames alone, or whole model inputs")
    parser.add_argument(
        "--clips", type=Path, nargs="+", help="own files; with sample, an mp3 of that name beside each"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="clips made here"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--decord", metavar="DIR", help="folder that decord was installed into")
    parser.add_argument("--librosa", metavar="DIR", help="folder that librosa was installed into")
    args = parser.parse_args()
    if args.clock == "cpu" and args.workers > 1:
        parser.error("--clock cpu counts one process; use wall time with several workers")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        checkpoint = None
        if args.what == "sample":
            from crab_lightning.mini import make_tiny_native

            checkpoint = make_tiny_native(root / "tiny")
        if args.clips:
            clips = {"own clips": args.clips}
        else:
            clips = {kind: [root / f"{kind}.mp4"] for kind in args.kinds}
            for kind, (path,) in clips.items():
                make_clip(path, kind)
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            args.workers,
            context,
            initializer=start_worker,
            initargs=(context.Barrier(args.workers), context.Value("i", 0)),
        )
        with pool:
            jobs = [pool.submit(measure, args, clips, checkpoint) for _ in range(args.workers)]
            found = [job.result() for job in jobs]
    video = "decord" if found[0][1] else "PyAV in place of decord"
    sound = "librosa" if found[0][2] else "PyAV in place of librosa"
    show(args, [seconds for seconds, _, _ in found], video if args.what == "video" else f"{video}, {sound}")


if __name__ == "__main__":
    main()
