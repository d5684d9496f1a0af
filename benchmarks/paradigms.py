"""One training step of each paradigm on the same clip at the same length: time, and memory at its peak.

    python benchmarks/paradigms.py                      # tiny language models of one shape, on a CPU
    python benchmarks/paradigms.py --hidden 512 --layers 12 --device cuda

The three have the same language model's shape, vocabulary, adapter and number of tokens; the question is
filled up to that number, since a clip takes a different share of it in each. What is left is what encoders
and connectors cost. Each paradigm runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from crab_lightning.adapters import AdapterConfig
from crab_lightning.mini import (
    TinyLlmVaConfig,
    TinyNativeConfig,
    TinyVllmAConfig,
    make_tiny_llm_va,
    make_tiny_native,
    make_tiny_vllm_a,
)
from crab_lightning.models import AVModule, LlmVaModule, OmniModule, VllmAModule
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.structures import Batch, Example, Media, Sample

PARADIGMS = ("native", "llm_va", "vllm_a")
_TARGET = "a dog barks on the left " * 8


@dataclass
class Result:
    """What a step of one paradigm costs.

    Args:
        paradigm: Which one.
        tokens: Tokens of a sample.
        media_tokens: Those of its video and sound.
        trained_parameters: Parameters that learn.
        step_s: Median time of a step.
        cpu_s: Median processor time of a step, which other work on the machine changes less.
        peak_mib: Peak memory of the steps above that of the loaded model; on a GPU, of the process.
    """

    paradigm: str
    tokens: int
    media_tokens: int
    trained_parameters: int
    step_s: float
    cpu_s: float
    peak_mib: float


def build(paradigm: str, folder: Path, args: argparse.Namespace) -> AVModule:
    """Return a module whose language model has the shape that ``args`` names."""
    shape: dict[str, Any] = {
        "hidden": args.hidden,
        "layers": args.layers,
        "heads": args.heads,
        "kv_heads": args.heads // 2,
    }
    options: dict[str, Any] = {
        "adapter": AdapterConfig(rank=args.rank, alpha=2.0 * args.rank),
        "dtype": "float32" if args.device == "cpu" else "bfloat16",
    }
    small: dict[str, Any] = {"hidden": 64, "heads": 4, "ffn": 128}
    if paradigm == "native":
        make_tiny_native(folder, config=TinyNativeConfig(**shape))
        return OmniModule(str(folder), **options)
    if paradigm == "llm_va":
        make_tiny_llm_va(folder, config=TinyLlmVaConfig(**shape))
        queries = ConnectorConfig(queries=args.queries, **small)
        llm, clip, beats = (str(folder / name) for name in ("llm", "clip", "beats"))
        return LlmVaModule(llm, vision=clip, beats=beats, connector=queries, **options)
    make_tiny_vllm_a(folder, config=TinyVllmAConfig(**shape))
    windows = ConnectorConfig(kind="window_qformer", queries=1, **small)
    # Its connector is frozen in stage 2; which weights it has costs nothing.
    first = VllmAModule(
        str(folder / "vllm"),
        beats=str(folder / "beats"),
        train_connectors=["audio"],
        connector=windows,
        dtype="float32",
    )
    first.configure_model()
    first.save_adapter(folder)
    file = folder / "audio_connector.safetensors"
    options |= {"audio_connector": file, "connector": windows}
    return VllmAModule(str(folder / "vllm"), beats=str(folder / "beats"), **options)


def make_batch(module: AVModule, args: argparse.Namespace) -> tuple[Batch, int]:
    """Return a batch of samples that are exactly ``args.tokens`` long, and how many of those are media."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (args.frames, 3, 224, 224), dtype=torch.uint8, generator=generator)
    sound = torch.randn(int(args.seconds * 16_000), generator=generator) * 0.1
    sample = Sample("bench/0", "bench", "none", "train", "0")

    def encoded(fill: int, *, media: bool = True) -> Any:
        parts = (Media.VIDEO, Media.AUDIO) if media else ()
        example = Example(
            sample,
            (*parts, " and" * fill),
            _TARGET,
            videos=[video] if media else [],
            audios=[sound] if media else [],
            seconds_per_grid=[2.0] if media else [],
        )
        return module.processor.encode(example)

    def length(item: Any) -> int:
        return int(item.inputs["input_ids"].shape[-1])

    least = length(encoded(1))
    each = length(encoded(11)) - least
    if each % 10 or (args.tokens - least) % (each // 10) or args.tokens < least:
        raise ValueError(f"--tokens is {args.tokens}; the clip and its question alone take {least}")
    item = encoded(1 + (args.tokens - least) * 10 // each)
    if length(item) != args.tokens:
        raise ValueError(f"the sample has {length(item)} tokens, not {args.tokens}")
    return module.processor.collate([item] * args.batch), least - length(encoded(1, media=False))


def measure(paradigm: str, args: argparse.Namespace) -> Result:
    """Time one paradigm in this process."""
    cuda = args.device == "cuda"
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        module = build(paradigm, Path(name), args)
        module.configure_model()
        batch, media = make_batch(module, args)  # here, since the processor is read at first use
    module.to(args.device).train()
    batch = batch.to(args.device)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    loaded_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    walls, cpus = [], []
    for step in range(args.warmup + args.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        loss, tokens = module.losses(batch)
        torch.autograd.backward(loss.sum() / tokens.sum())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        if step >= args.warmup:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    if cuda:
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded_kib) / 2**10
    return Result(
        paradigm,
        args.tokens,
        media,
        sum(p.numel() for p in trained),
        round(statistics.median(walls), 4),
        round(statistics.median(cpus), 4),
        round(peak_mib, 1),
    )


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Run every paradigm in a process of its own and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--paradigms", nargs="+", choices=PARADIGMS, default=list(PARADIGMS))
    add("--tokens", type=int, default=1024, help="tokens of a sample, answer included")
    add("--batch", type=int, default=2, help="samples to a step")
    add("--frames", type=int, default=10, help="frames of the video, 224 px")
    add("--seconds", type=float, default=10.0, help="length of the sound")
    add("--queries", type=int, default=32, help="tokens of a frame and of a second in llm_va")
    add("--hidden", type=int, default=128, help="width of the language models")
    add("--layers", type=int, default=4)
    add("--heads", type=int, default=4)
    add("--rank", type=int, default=16)
    add("--steps", type=int, default=5)
    add("--warmup", type=int, default=1)
    add("--device", default="cpu")
    add("--here", action="store_true", help="measure the first paradigm in this process, and print JSON")
    args = parser.parse_args(argv)
    if args.here:
        found = measure(args.paradigms[0], args)
        print(json.dumps(asdict(found)))
        return [found]
    words = list(sys.argv[1:] if argv is None else argv)
    results = []
    for paradigm in args.paradigms:
        command = [sys.executable, __file__, *words, "--here", "--paradigms", paradigm]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(Result(**json.loads(done.stdout.splitlines()[-1])))
    print(f"{'':8}{'media/all':>12}{'trained':>10}{'step s':>9}{'cpu s':>9}{'peak MiB':>10}")
    for r in results:
        print(
            f"{r.paradigm:8}{f'{r.media_tokens}/{r.tokens}':>12}{r.trained_parameters:>10,}{r.step_s:>9.3f}"
            f"{r.cpu_s:>9.3f}{r.peak_mib:>10.0f}"
        )
    return results


if __name__ == "__main__":
    main()
