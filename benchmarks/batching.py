"""How much of a batch is padding, and how long processes wait for each other, under each way of batching.

python benchmarks/batching.py --root DIR            # the training rows of a data root
python benchmarks/batching.py --root DIR --batch-size 8 --processes 1 2 8 64

No file is decoded: lengths follow from the rows, as they do in a run. A batch costs its padded tokens; a
process waits while another one's batch of the same step costs more. "rows, random" is batch_size with
length_window 1, "rows, grouped" with 32, "tokens" batch_tokens of as many tokens as batch_size samples have
on average.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from crab_lightning.configuration.files import compose
from crab_lightning.data import AVDataModule
from crab_lightning.data.sampling.mixture import Mixture
from crab_lightning.data.sampling.samplers import TrainBatches

WINDOW = 32


def lengths_of(root: Path) -> tuple[NDArray[np.int32], Mixture]:
    """Return the lengths of the training rows and the mixture of omni.yaml over them."""
    parser = ArgumentParser()
    parser.add_class_arguments(AVDataModule, "data")
    section = compose(["omni.yaml"])["data"] | {"root": str(root)}
    data = parser.instantiate(parser.parse_object({"data": section})).data
    data.setup("test")
    return data._lengths(data._pack("train"), with_target=True), data._mixture()


def waste(lengths: NDArray[np.int32], ranks: list[TrainBatches]) -> tuple[float, float, float, float]:
    """Return padding share, waiting share, samples a batch and seconds of planning an epoch."""
    began = time.perf_counter()
    taken = [[[draw.item for draw in batch] for batch in rank] for rank in ranks]
    seconds = (time.perf_counter() - began) / len(ranks)
    cost = np.array([[len(batch) * lengths[batch].max() for batch in rank] for rank in taken], dtype=float)
    used = sum(lengths[batch].sum() for rank in taken for batch in rank)
    drawn = sum(len(batch) for rank in taken for batch in rank)
    return 1 - used / cost.sum(), 1 - cost.mean() / cost.max(axis=0).mean(), drawn / cost.size, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="data root with AVUIE_2/")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 8])
    args = parser.parse_args()
    lengths, mixture = lengths_of(args.root)
    tokens = round(args.batch_size * float(lengths.mean()))
    low, middle, high = np.percentile(lengths, [5, 50, 95])
    Console().print(
        f"{len(lengths):,} rows; tokens: mean {lengths.mean():.0f}, 5 % {low:.0f}, median {middle:.0f}, "
        f"95 % {high:.0f}, longest {lengths.max()}",
        highlight=False,
    )
    table = Table("processes", "batches", "padding", "waiting", "samples a batch", "planning an epoch")
    for world in args.processes:
        for name, window, budget in (
            ("rows, random", 1, None),
            ("rows, grouped", WINDOW, None),
            ("tokens", WINDOW, tokens),
        ):
            ranks = [
                TrainBatches(mixture, args.batch_size, rank, world, window, lengths, budget)
                for rank in range(world)
            ]
            padding, waiting, rows, seconds = waste(lengths, ranks)
            table.add_row(
                str(world), name, f"{padding:.1%}", f"{waiting:.1%}", f"{rows:.2f}", f"{seconds:.2f} s"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
