"""A training step of a small Qwen2.5-Omni thinker with random weights: time, kept bytes and peak memory.

    python benchmarks/adapters_step.py [--dropout 0.1]

Forward, loss, backward and AdamW, with adapters in the seven projections of every decoder layer. Times are
taken as in ``adapters.py``; ``recomputed`` is the loop over heads under gradient checkpointing, against which
a layer that keeps little can do without. Peak memory is that of one step over what was held before it, the
median of three, every variant in a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import multiprocessing
import platform
import random
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from adapters import (
    DTYPES,
    PROJECTIONS,
    add_common_arguments,
    clock,
    kept_for_backward,
    median_ratio,
    prepare,
    start_from_nonzero,
    variants,
)
from torch import nn

from crab_lightning.adapters import AdapterConfig

RECOMPUTED = "recomputed"
VOCABULARY = 4096


def thinker(args: argparse.Namespace) -> nn.Module:
    """Return a small Qwen2.5-Omni thinker with random weights."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    width, layers = args.width, args.layers
    text = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 256), "intermediate_size": width * 37 // 7,
        "vocab_size": VOCABULARY, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
        "mrope_section": [8, 12, 12]}, "use_sliding_window": False,
    }  # fmt: skip
    audio = {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
             "output_dim": width}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2,
              "out_hidden_size": width}  # fmt: skip
    config = Qwen2_5OmniThinkerConfig(
        text_config=text, audio_config=audio, vision_config=vision, vision_start_token_id=4090
    )
    torch.manual_seed(0)
    model: nn.Module = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return model.to(args.device, DTYPES[args.dtype])


def adapted_decoder(name: str, args: argparse.Namespace) -> nn.Module:
    """Return the decoder of a thinker with one variant in its seven projections."""
    decoder: Any = thinker(args).get_decoder()  # type: ignore[operator]
    decoder.requires_grad_(False)
    config = AdapterConfig(
        rank=args.rank, alpha=2 * args.rank, heads=args.heads, dropout=args.dropout, router=args.router
    )
    if name != "frozen":
        build = variants()["head loop" if name == RECOMPUTED else name]
        for path, module in list(decoder.named_modules()):
            if path.rpartition(".")[2] in PROJECTIONS:
                decoder.set_submodule(path, build(module, config))
    if name == RECOMPUTED:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    trained: nn.Module = decoder.train()
    return trained


class TrainingStep:
    """The step of one variant; a call runs it and returns the seconds it took."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.args = args
        self.decoder = adapted_decoder(name, args)
        start_from_nonzero(self.decoder)
        place: dict[str, Any] = {"dtype": DTYPES[args.dtype], "device": args.device}
        self.embeds = torch.randn(args.batch, args.tokens, args.width, **place).requires_grad_()
        self.head = torch.randn(VOCABULARY, args.width, **place)
        self.labels = torch.randint(VOCABULARY, (args.batch, args.tokens), device=args.device)
        trained = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None

    def __call__(self) -> float:
        """Run the step."""
        started = clock(self.args)
        hidden = self.decoder(inputs_embeds=self.embeds, use_cache=False).last_hidden_state
        logits = (hidden @ self.head.t()).float()
        F.cross_entropy(logits.flatten(0, 1), self.labels.flatten()).backward()  # type: ignore[no-untyped-call]
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.embeds.grad = None
        return clock(self.args) - started

    def kept_mib(self) -> float:
        """Return MiB kept for backward beside the input and the weights."""
        with kept_for_backward([self.embeds], [self.decoder]) as found:
            self()
        return sum(found.values()) / 2**20


def median_peak_mib(name: str, args: argparse.Namespace) -> float:
    torch.set_num_threads(args.threads)
    step = TrainingStep(name, args)
    step()
    return statistics.median(peak_mib(step, args.device) for _ in range(3))


def peak_mib(run: Callable[[], object], device: str) -> float:
    """Return the peak memory of ``run`` over what was held before it; NaN where that cannot be read."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        idle = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - idle) / 2**20
    if platform.system() != "Linux":
        run()
        return math.nan
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    idle = memory_kib("VmRSS")
    run()
    return (memory_kib("VmHWM") - idle) / 2**10


def memory_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def adamw(args: argparse.Namespace) -> None:
    """Time an optimizer step over the I-LoRA weights by each implementation of AdamW, interleaved."""
    ways: dict[str, dict[str, Any]] = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    made: dict[str, torch.optim.Optimizer] = {}
    for name, options in ways.items():
        trained = [p for p in adapted_decoder("ilora", args).parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.randn_like(parameter)
        made[name] = torch.optim.AdamW(trained, lr=1e-4, **options)
        made[name].step()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name in random.sample(list(ways), len(ways)):
            started = clock(args)
            made[name].step()
            times[name].append(clock(args) - started)
    values = sum(p.numel() for group in made["fused"].param_groups for p in group["params"])
    print(
        f"AdamW over {values:,} values:",
        {k: f"{1e3 * statistics.median(v):.2f} ms" for k, v in times.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=784)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--adamw", action="store_true", help="time the implementations of AdamW alone")
    args = prepare(parser)
    if args.adamw:
        adamw(args)
        return
    names = [*variants(), RECOMPUTED]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        peak = dict(zip(names, pool.map(partial(median_peak_mib, args=args), names), strict=True))
    steps = {name: TrainingStep(name, args) for name in names}
    kept = {name: step.kept_mib() for name, step in steps.items()}  # and the first step, which is slower
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in random.sample(names, len(names)):
            times[name].append(steps[name]())
    print(
        f"step: width {args.width}, {args.layers} layers, {args.batch}x{args.tokens} tokens, {args.dtype}, "
        f"r={args.rank}, n={args.heads}, dropout={args.dropout}"
    )
    print("variant           ms   best ms  x frozen   x loop  kept MiB  peak MiB")
    for name in names:
        to = {other: median_ratio(times[name], times[other]) for other in names}
        print(
            f"{name:<10} {1e3 * statistics.median(times[name]):9.1f} {1e3 * min(times[name]):9.1f} "
            f"{to['frozen']:9.3f} {to['head loop']:8.3f} {kept[name]:9.1f} {peak[name]:9.1f}"
        )
        if name == "ilora":
            for other in {"peft lora", RECOMPUTED} & set(names):
                print(f"ilora x {other}: time {to[other]:.3f}, peak {peak[name] / peak[other]:.3f}")


if __name__ == "__main__":
    main()
