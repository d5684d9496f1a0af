"""Files that were made to harm: what came of each, how long it took and how much memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import struct
import time
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crab_lightning.configuration.files import compose
from crab_lightning.data.cache import shards
from crab_lightning.data.cache.recipes import AudioRecipe
from crab_lightning.data.cache.store import MediaCache
from crab_lightning.media import read_audio, read_image, read_video, write_audio, write_video
from crab_lightning.runs.checkpoint_files import usable_checkpoint
from crab_lightning.segmentation.convert import convert_checkpoint
from crab_lightning.structures import AudioWindow

FORK = multiprocessing.get_context("fork")
LONGEST_S = 120.0


class Harm:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def outcome(read: Callable[[], object], work: Path) -> tuple[str, str]:
    """Read in a child; say how it ended, after how long and with how much more memory."""
    near, far = FORK.Pipe()

    def child() -> None:
        os.chdir(work)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read()
            said = "read"
        except ValueError as err:
            said = f"{type(err).__name__}: {' '.join(str(err).replace(str(work), '').split())[:90]}"
        except BaseException as err:
            said = f"NOT A CLEAR ERROR, {type(err).__name__}: {err}"
        far.send((said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024))

    began = time.monotonic()
    process = FORK.Process(target=child)
    process.start()
    done = near.poll(LONGEST_S)
    said, mib = near.recv() if done else ("NO END", 0.0)
    process.kill()
    process.join()
    ran = ", CODE WAS RUN" if (work / "harm").exists() else ""
    return f"{said}{ran}", f"{time.monotonic() - began:.1f} s, {mib:.0f} MiB"


def file_faults(root: Path, work: Path, kills: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield a fault, what came of it, and its cost.

    Args:
        root: Not used.
        work: Folder for the files.
        kills: Not used.
    """
    work.mkdir(parents=True, exist_ok=True)
    write_video(work / "clip.mp4", np.zeros((10, 32, 32, 3), np.uint8), 10, np.zeros(16_000, np.float32))

    def made(name: str, data: bytes) -> Path:
        (work / name).write_bytes(data)
        return work / name

    lists = f"ffconcat version 1.0\n{'file clip.mp4' + chr(10)}".encode()
    boxes = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"isom", 0, b"isom", b"mp42")
    boxes += struct.pack(">I4s", 8, b"free") * 3_000_000
    with wave.open(str(work / "slow.wav"), "wb") as out:
        out.setparams((1, 2, 1, 0, "NONE", ""))
        out.writeframes(bytes(16_000))
    os.mkfifo(work / "pipe.mp4")
    media: dict[str, Callable[[], object]] = {
        "a list of files named .wav": lambda: read_audio(made("list.wav", lists)),
        "20,000 lines of a list": lambda: read_audio(made("long.wav", lists + b"file clip.mp4\n" * 20_000)),
        "an m3u8 playlist named .mp4": lambda: read_video(made("p.mp4", b"#EXTM3U\nclip.mp4\n"), 1),
        "PostScript named .jpg": lambda: read_image(made("p.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 50)),
        "24 MB of empty mp4 boxes": lambda: read_video(made("boxes.mp4", boxes), 1),
        "16 kB of sound at 1 Hz": lambda: read_audio(work / "slow.wav"),
        "a pipe named .mp4": lambda: read_video(work / "pipe.mp4", 1),
    }
    for name, read in media.items():
        yield name, outcome(read, work)
    yield from _configs(work)
    yield from _caches(work)
    harm = work / "harm.pt"
    torch.save({"state_dict": Harm()}, harm)
    yield "a checkpoint that asks for os.system", outcome(lambda: usable_checkpoint(harm), work)
    for protocol in (2, 4):
        made(f"harm{protocol}.pt", pickle.dumps(Harm(), protocol))
        path = work / f"harm{protocol}.pt"
        yield (
            f"a pickle (protocol {protocol}) that asks for it, given to sam2-convert",
            outcome(lambda path=path: convert_checkpoint(path, work / "out"), work),
        )
    photo = made("photo.pt", b"\xff\xd8\xff\xe0" * 100)
    yield "a photo given to sam2-convert", outcome(lambda: convert_checkpoint(photo, work / "out"), work)


def _configs(work: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    texts = {
        "YAML 3,000 levels deep": "a: " + "[" * 3000 + "]" * 3000,
        "YAML of 2^60 values by aliases": bomb,
    }
    for number, (name, text) in enumerate(texts.items()):
        path = work / f"config{number}.yaml"
        path.write_text(text)
        yield name, outcome(lambda path=path: compose([path]), work)


def _caches(work: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    recipe = AudioRecipe(AudioWindow("all"), None)
    write_audio(work / "tone.wav", np.zeros(16_000, np.float32))
    for name, forge in {"shard replaced by a pipe": None, "forged entries, checksum right": 2**62}.items():
        folder = work / f"cache{forge or 0}"
        MediaCache(folder).read(work / "tone.wav", recipe)
        (shard,), (index,) = folder.glob("shards/*.bin"), folder.glob("shards/*.idx")
        if forge is None:
            shard.unlink()
            os.mkfifo(shard)
        else:
            entries = np.frombuffer(index.read_bytes(), shards._ENTRY).copy()
            entries["bytes"], entries["shape"], entries["kind"] = forge, 2**32 - 1, 7
            bodies = [entry.tobytes()[: shards._BODY_BYTES] for entry in entries]
            index.write_bytes(b"".join(b + zlib.crc32(b).to_bytes(4, "little") for b in bodies))

        def read(folder: Path = folder) -> None:
            cache = MediaCache(folder)
            cache.read(work / "tone.wav", recipe)
            raise ValueError(f"decoded again: {json.dumps(vars(cache.stats))}")

        yield f"cache {name}", outcome(read, work)
