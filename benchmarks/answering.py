"""Answers in a second: this package's engine, transformers' ``generate``, and a loop that awaits the longest.

    python benchmarks/answering.py --run runs/demo --root mini_avuie          # a trained run, its own answers
    python benchmarks/answering.py --hidden 1024 --layers 4                   # random weights of a shape

All three answer the same prompts, read from the same batches, in interleaved rounds; processor time is
compared. ``generate`` runs with the convolution of patches as transformers has it, which this package
computes as a product. The adapters are those of this package in all three. Random weights end no answer by
themselves: there each answer ends at a length drawn from the lengths that the demo's answers have. The texts
of the three must be equal, or the script stops.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import StoppingCriteria, StoppingCriteriaList

from crab_lightning.inference.loading import load_run
from crab_lightning.mini import TinyNativeConfig, make_tiny_native
from crab_lightning.models import OmniModule
from crab_lightning.models.patches import PatchProduct
from crab_lightning.structures import Batch, Example, Media, Sample

Lengths = dict[str, int]


class EndsAt(StoppingCriteria):
    """Ends each row at its own length, which random weights would never do."""

    def __init__(self, prompt: int, lengths: list[int]) -> None:
        self.prompt, self.lengths = prompt, torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Tell which rows have reached their length."""
        return (input_ids.shape[1] - self.prompt) >= self.lengths.to(input_ids.device)


def engine(model: Any, batches: list[Batch], lengths: Lengths | None) -> dict[str, list[int]]:
    """Answer through the engine, across batches."""
    made = model.engine(slots=len(batches[0]))
    answers: list[Any] = []
    for batch in batches:
        new = model.queue(made, batch)
        if lengths is not None:
            for answer in new:
                answer.limit = lengths[answer.sample.id]
        answers += new
        while made.waiting:
            made.step()
    while made.busy:
        made.step()
    return {answer.sample.id: answer.tokens for answer in answers}


def waiting(model: Any, batches: list[Batch], lengths: Lengths | None) -> dict[str, list[int]]:
    """Answer batch by batch with our loop, which goes on until the longest answer has ended."""
    found: dict[str, list[int]] = {}
    limit = model.max_new_tokens
    for batch in batches:
        model.announce(batch)
        if lengths is not None:
            model.max_new_tokens = max(lengths[s.id] for s in batch.samples)
        for sample, tokens in zip(batch.samples, model.answer(batch).tokens, strict=True):
            found[sample.id] = tokens if lengths is None else tokens[: lengths[sample.id]]
    model.max_new_tokens = limit
    return found


@contextmanager
def stock(model: Any) -> Iterator[None]:
    """Let transformers' own convolution of patches run for a while."""
    replaced = [part for part in model.modules() if isinstance(part, PatchProduct)]
    for part in replaced:
        part.__class__ = nn.Conv3d
    try:
        yield
    finally:
        for part in replaced:
            part.__class__ = PatchProduct


def library(model: Any, batches: list[Batch], lengths: Lengths | None) -> dict[str, list[int]]:
    """Answer batch by batch with transformers' ``generate``."""
    found: dict[str, list[int]] = {}
    end = model.processor.end_token
    for batch in batches:
        model.announce(batch)
        inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
        width = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {"max_new_tokens": model.max_new_tokens, "do_sample": False}
        if lengths is not None:
            rows = [lengths[s.id] for s in batch.samples]
            options["stopping_criteria"] = StoppingCriteriaList([EndsAt(width, rows)])
        with stock(model):
            out = model.model.generate(**inputs, **options, eos_token_id=end, pad_token_id=end)
        for sample, row in zip(batch.samples, out[:, width:].tolist(), strict=True):
            tokens = row[: row.index(end)] if end in row else row
            found[sample.id] = tokens if lengths is None else tokens[: lengths[sample.id]]
    return found


def trained(args: argparse.Namespace) -> tuple[Any, list[Batch], None]:
    """Return a trained run and its test prompts."""
    model, data = load_run(args.run)
    data.root = Path(args.root)
    data.setup("test")
    samples = [s for s in data.samples("test") if s.dataset in args.only.split(",") or not args.only]
    dataset = data.dataset(samples)
    order = sorted(range(len(samples)), key=lambda i: samples[i].dataset)[: args.prompts]
    rows = [dataset[i] for i in order]
    batches = [data.processor.collate(rows[i : i + args.batch]) for i in range(0, len(rows), args.batch)]
    return model, batches, None


def random(args: argparse.Namespace, folder: Path) -> tuple[Any, list[Batch], Lengths]:
    """Return random weights of a shape and as many prompts with ten frames and ten seconds of sound."""
    sizes = TinyNativeConfig(hidden=args.hidden, layers=args.layers, heads=args.hidden // 64, kv_heads=2)
    folder = make_tiny_native(folder / "model", config=sizes)
    model = OmniModule(str(folder), dtype="float32", max_new_tokens=256)
    model.configure_model()
    rng = np.random.default_rng(0)
    rows, lengths = [], {}
    for number in range(args.prompts):
        sample = Sample(f"q/{number}", "q", "qa", "test", str(number))
        frames = torch.from_numpy(rng.integers(0, 255, (10, 3, 224, 224), dtype=np.uint8))
        sound = torch.from_numpy(rng.normal(0, 0.1, 160_000).astype(np.float32))
        talk = ("This is a video and an audio:", Media.VIDEO, Media.AUDIO, "What happens?")
        rows.append(model.processor.encode(Example(sample, talk, None, [frames], [], [sound], [2.0])))
        # Seen in the demo: 4 to 60 tokens, 25 on average, a few times as long.
        lengths[sample.id] = int(np.clip(rng.lognormal(3.0, 0.65), 3, 128))
    batches = [model.processor.collate(rows[i : i + args.batch]) for i in range(0, len(rows), args.batch)]
    return model.eval(), batches, lengths


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a trained run; random weights when left out")
    parser.add_argument("--root", help="the data root of the run")
    parser.add_argument("--only", default="", help="datasets of the run, comma-separated")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ways: dict[str, Callable[..., dict[str, list[int]]]] = {
        "engine": engine,
        "generate": library,
        "waits for the longest": waiting,
    }
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        model, batches, lengths = trained(args) if args.run else random(args, Path(scratch))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        told: dict[str, dict[str, list[int]]] = {}
        for _ in range(args.rounds):
            for name, way in ways.items():
                began = time.process_time()
                told[name] = way(model, batches, lengths)
                seconds[name].append(time.process_time() - began)
        began = time.process_time()
        for batch in batches:  # what no way can do without
            model.announce(batch)
            inputs = model.prompt_inputs(batch)
            model.prompt_reader(batch).read(inputs.ids, inputs.positions, inputs.mask)
        prompts_s = time.process_time() - began
    unlike = [key for key in told["engine"] if len({tuple(t[key]) for t in told.values()}) > 1]
    count = [len(tokens) for tokens in told["engine"].values()]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "prompts": len(count),
                "batch": args.batch,
                "mean_tokens": round(sum(count) / len(count), 1),
                "longest": max(count),
                "unequal_answers": len(unlike),
                "cpu_s": {name: round(value, 2) for name, value in medians.items()},
                "cpu_s_reading_prompts_alone": round(prompts_s, 2),
                "times_generate": {n: round(medians["generate"] / v, 2) for n, v in medians.items()},
            },
            indent=2,
        )
    )
    if unlike:
        raise SystemExit(f"{len(unlike)} answers differ, the first is {unlike[0]}")


if __name__ == "__main__":
    main()
