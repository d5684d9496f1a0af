"""The data path at the size of a real run: start-up, memory, and whether a training step ever waits.

python benchmarks/data_scale.py rows                    # 222,000 rows: start-up and memory over an epoch
python benchmarks/data_scale.py wait --step-ms 100      # does a step of 100 ms wait for its batch?

`rows` writes manifests of that many rows, reads them as a run does, and goes through an epoch with workers.
The clips that they name do not exist: every path counts as there (which leaves out listing their folders),
and a decoder that returns at once stands in for media, so that memory is what the rows take. Resident memory
is that of the main process; the workers' is what they hold for themselves (private in smaps_rollup), as they
share the rest.

`wait` decodes synthetic clips with workers and a cache, and sleeps for the time of a step in place of a
model. A wait is the time from asking for a batch until it is there; the first batch of an epoch is left out,
and so is the time that releasing the batch before takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from crab_lightning.commands import main as cli
from crab_lightning.configuration.files import compose
from crab_lightning.data import AVDataModule
from crab_lightning.data.cache.recipes import AudioRecipe, Decoded, ImageRecipe, VideoRecipe
from crab_lightning.data.manifests.files import ExistingFiles
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch

ROWS = 222_000
MEDIA_KEYS = ("video", "audio", "image", "path")


def tokens_of(value: Any) -> Iterator[str]:
    """Yield the names of recordings that a row's paths hold."""
    for one in value if isinstance(value, list) else [value]:
        path = Path(one)
        yield path.stem if not path.stem.isdigit() else path.parent.parent.name


def replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, list):
        return [replaced(one, names) for one in value]
    return value


def multiply(root: Path, rows: int) -> int:
    """Write every training row again under other names, until there are so many; return their number."""
    manifests = {path: json.loads(path.read_text()) for path in sorted(root.glob("AVUIE_2/*/train.json"))}
    times = -(-rows // sum(map(len, manifests.values())))
    total = 0
    for path, own in manifests.items():
        wide = list(own)
        for i in range(1, times):
            for row in own:
                paths = [v for k, v in row.items() if k.endswith("_path") or k.endswith("_paths")]
                names = {token: f"{token}x{i}" for value in paths for token in tokens_of(value)}
                new = {key: replaced(value, names) for key, value in row.items()}
                if "question_id" in new and isinstance(new["question_id"], int):
                    new["question_id"] += i * 10**10
                wide.append(new)
        path.write_text(json.dumps(wide))
        total += len(wide)
    return total


def data_module(root: Path, **options: Any) -> AVDataModule:
    """Return the data section of the released configuration."""
    content = compose(["data/av_uie_v2.yaml"])
    content = {k: v for k, v in content.items() if k not in ("root", *options)} | {"root": str(root)}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AVDataModule, "data", fail_untyped=False)
    plain = {key: value for key, value in options.items()}
    config = parser.parse_string(yaml.safe_dump({"data": content | plain}))
    return parser.instantiate_classes(config).data  # type: ignore[no-any-return]


def resident_mb(pid: int | str = "self", private: bool = False) -> float:
    wanted = ("Private_Clean", "Private_Dirty") if private else ("Rss",)
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in wanted) / 1024


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found]


def stand_ins() -> None:
    """Let every file be there, and nothing be decoded: zeros of the right shape."""
    ExistingFiles.__contains__ = lambda self, path: True  # type: ignore[method-assign]
    frame = torch.zeros(3, 224, 224, dtype=torch.uint8)
    VideoRecipe.decode = lambda self, path, limits: Decoded(frame.expand(self.frames, -1, -1, -1), 10.0)  # type: ignore
    ImageRecipe.decode = lambda self, path, limits: Decoded(frame)  # type: ignore
    AudioRecipe.decode = lambda self, path, limits: Decoded(torch.zeros(16_000))  # type: ignore


def rows(args: argparse.Namespace, work: Path, tiny: Path) -> Table:
    root = work / "rows"
    cli(["data", "mini", "--root", str(root), "--clips", "40", "--workers", "0"])
    count = multiply(root, args.rows)
    print(f"{count:,} rows", flush=True)
    stand_ins()
    processor = NativeProcessor(tiny)
    gc.collect()
    before = resident_mb()
    began, cpu = time.monotonic(), time.process_time()
    data = data_module(root, num_workers=args.workers, batch_size=4, length_window=32, epoch_size=args.epoch)
    data.processor = processor
    data.setup("test")
    loader = data.train_dataloader()
    ready, cpu = time.monotonic() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first = None
    seen: list[tuple[int, float, float]] = []
    for number, _ in enumerate(loader):
        first = first or time.monotonic() - began
        if number in (0, 20) or number % max(1, len(loader) // 5) == 0 or number == len(loader) - 1:
            own = [resident_mb(pid, private=True) for pid in children()]
            seen.append((number, resident_mb(), max(own, default=0.0)))
    table = Table("", "", title=f"{count:,} rows, {args.workers} workers")
    table.add_row("start-up: manifests, split, mixture, lengths", f"{ready:.1f} s, {cpu:.1f} s of CPU")
    table.add_row("until the first batch", f"{first:.1f} s")
    table.add_row(
        "resident before / at most / with the rows", f"{before:,.0f} / {peak:,.0f} / {seen[0][1]:,.0f} MB"
    )
    for number, main, worker in seen:
        table.add_row(
            f"batch {number:,}: main process, own memory of the largest worker",
            f"{main:,.0f}, {worker:,.0f} MB",
        )
    return table


def wait(args: argparse.Namespace, work: Path, tiny: Path) -> Table:
    root = work / "wait"
    cli(["data", "mini", "--root", str(root), "--clips", "60", "--workers", "0"])
    table = Table(
        "",
        "batches",
        "waits over 1 ms",
        "median ms",
        "longest ms",
        title=f"a step of {args.step_ms} ms, batch {args.batch}",
    )
    for name, cache in (("from disk", None), ("from the cache", str(work / "cache"))):
        if cache is not None:
            cli(["data", "cache", "--root", str(root), "--cache", cache, "--workers", "0"])
        data = data_module(
            root,
            num_workers=args.workers,
            batch_size=args.batch,
            cache=cache,
            epoch_size=args.batch * args.batches,
            prefetch_batches=4,
        )
        data.processor = NativeProcessor(tiny)
        data.setup("test")
        waits = []
        iterator = iter(data.train_dataloader())
        batch: Batch | None = next(iterator)
        while batch is not None:
            time.sleep(args.step_ms / 1000)
            began = time.monotonic()
            following = next(iterator, None)
            if following is not None:
                waits.append(1e3 * (time.monotonic() - began))
            batch = following  # as a trainer does: a batch is let go once the next one is there
        late = sum(w > 1 for w in waits)
        table.add_row(
            name, str(len(waits)), str(late), f"{statistics.median(waits):.2f}", f"{max(waits):.1f}"
        )
        data.teardown()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("rows", "wait"))
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument(
        "--epoch", type=int, help="samples of the epoch that is gone through; all when left out"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--step-ms", type=float, default=100.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="data_scale_"))
    try:
        cli(["model", "tiny", "--out", str(work / "tiny")])
        Console().print({"rows": rows, "wait": wait}[args.what](args, work, work / "tiny"))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
