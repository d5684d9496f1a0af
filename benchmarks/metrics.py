"""Cost of metric updates: masks in bulk, and 1,000 answers one at a time as the Evaluator feeds them.

python benchmarks/metrics.py --masks 1000 --side 224 --answers 1000 --threads 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torchmetrics import Metric

from crab_lightning import metrics

Update = tuple[Any, ...]


def mask_metrics(frames: int, side: int) -> dict[str, tuple[Metric, Update]]:
    """Every mask protocol with its input: ellipse-like blobs, as bool masks or as logits."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(-1, 1, side)
    centre = torch.rand(2, frames, 1, 1, generator=generator) - 0.5
    logits = 5 - 20 * ((grid[:, None] - centre[0]) ** 2 + (grid[None, :] - centre[1]) ** 2)
    pred, target = logits > 0, logits.roll(7, dims=-1) > 0
    return {
        "JF crabplus, masks": (metrics.MaskJF("crabplus"), (pred, target)),
        "JF avsbench, masks": (metrics.MaskJF("avsbench"), (pred, target)),
        "JF avsbench, logits": (metrics.MaskJF("avsbench"), (logits, target)),
        "JF framewise, logits": (metrics.MaskJF("framewise"), (logits, target)),
        "JF refavs, logits": (metrics.MaskJF("refavs"), (logits, target)),
        "S crabplus, masks": (metrics.NullMaskS("crabplus"), (pred,)),
        "S refavs, logits": (metrics.NullMaskS("refavs"), (logits,)),
    }


def answer_metrics(side: int) -> dict[str, tuple[Metric, Update]]:
    """Every metric with one answer of the size that its benchmark has."""
    one, label = torch.tensor([1]), torch.tensor([0])
    parsing = torch.zeros(1, 25, 10, dtype=torch.int64)
    parsing[0, 3, 2:7] = 1
    spans, kinds = torch.tensor([[0.0, 4.0], [5.0, 9.0], [20.0, 31.0]]), torch.tensor([4, 4, 17])
    caption = "a man plays an acoustic guitar while a dog barks in the yard"
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, 30:90, 40:120] = True
    return {
        "Accuracy": (metrics.Accuracy(), (one, one)),
        "WeightedAverageRecall, 51 classes": (metrics.WeightedAverageRecall(51), (one, one)),
        "UnweightedAverageRecall, 11 classes": (metrics.UnweightedAverageRecall(11), (one, one)),
        "WeightedF1, 7 classes": (metrics.WeightedF1(7), (one, one)),
        "MusicAVQAAccuracy": (metrics.MusicAVQAAccuracy(), (one, label)),
        "AVQAAccuracy": (metrics.AVQAAccuracy(), (one, label)),
        "SegmentAccuracy": (metrics.SegmentAccuracy(), (torch.zeros(1, 10), torch.zeros(1, 10))),
        "EventParsingF": (metrics.EventParsingF(), (parsing, parsing, parsing, parsing)),
        "BoxIoU": (metrics.BoxIoU(), (torch.tensor([[1, 1, 9, 9]]), torch.tensor([[2, 2, 9, 9]]))),
        "MaskJF crabplus": (metrics.MaskJF("crabplus"), (mask, mask.roll(9, dims=-1))),
        "NullMaskS crabplus": (metrics.NullMaskS("crabplus"), (mask,)),
        "EventMeanAP": (metrics.EventMeanAP(), (spans, kinds, torch.ones(3), spans + 0.5, kinds)),
        "CaptionScores, python tokens, no METEOR": (
            metrics.CaptionScores("python", with_meteor=False),
            ([caption], [[caption.replace("dog", "cat"), caption[:40]]]),
        ),
    }


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call, so that other programs on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--masks", type=int, default=1000, help="masks in one update")
    parser.add_argument("--side", type=int, default=224, help="height and width of a mask, in pixels")
    parser.add_argument("--answers", type=int, default=1000, help="updates of one answer each")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of the mask updates; the best is printed"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="where the masks lie")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console()

    table = Table(
        "metric", "update, CPU s", "per mask, us", title=f"{args.masks} masks {args.side}x{args.side}"
    )
    for name, (metric, update) in mask_metrics(args.masks, args.side).items():
        metric.to(args.device)
        arguments = [tensor.to(args.device) for tensor in update]

        def work(metric: Metric = metric, arguments: list[Any] = arguments) -> None:
            metric.update(*arguments)
            metric.frames.item()  # waits for the device

        best = min(seconds(work) for _ in range(args.repeats))
        table.add_row(name, f"{best:.3f}", f"{1e6 * best / args.masks:.0f}")
    console.print(table)

    table = Table(
        "metric", "updates, CPU s", "compute, CPU s", title=f"{args.answers} answers, one at a time"
    )
    for name, (metric, update) in answer_metrics(args.side).items():

        def feed(metric: Metric = metric, update: Update = update) -> None:
            for _ in range(args.answers):
                metric.update(*update)

        table.add_row(name, f"{seconds(feed):.3f}", f"{seconds(metric.compute):.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
