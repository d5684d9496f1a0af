"""One training step of a Qwen2.5-Omni thinker with random weights: time, tokens/s, peak memory, MFU.

The full 7B shape needs no download, only a GPU that holds it:

    python benchmarks/step.py --size 7b --device cuda --rank 128 --dropout 0.1

and any machine runs the tiny shape: ``python benchmarks/step.py``. I-LoRA and plain LoRA of the same rank are
timed in one process, their steps taking turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crab_lightning.adapters import AdapterConfig, LoRALinear
from crab_lightning.mini import TinyNativeConfig
from crab_lightning.mini.checkpoints.native import thinker_config
from crab_lightning.mini.checkpoints.tokenizer import train_tokenizer
from crab_lightning.models import OmniModule
from crab_lightning.structures import Batch, Sample

# Dense bf16 rates of the data sheets, without sparsity.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}


@dataclass
class Result:
    """What one kind of adapter costs."""

    adapter: str
    step_s: float
    tokens_per_s: float
    useful_tflop: float
    tflop_per_s: float
    mfu: float | None
    peak_gib: float | None
    trained_parameters: int


def write_config(folder: Path, size: str) -> None:
    """Write a thinker's ``config.json``; that is all that random weights need."""
    if size == "tiny":
        config = thinker_config(TinyNativeConfig(), train_tokenizer(vocab_size=600))
    else:
        config = thinker_config(_PUBLISHED, train_tokenizer(vocab_size=600))
        config.text_config.vocab_size = 152_064
        config.vision_config.intermediate_size = 3420
    config.save_pretrained(folder)


# Shapes of the published 7B checkpoint (arXiv:2503.20215 and its config).
_PUBLISHED = TinyNativeConfig(
    hidden=3584,
    layers=28,
    heads=28,
    kv_heads=4,
    ffn=18944,
    vision_hidden=1280,
    vision_layers=32,
    vision_heads=16,
    audio_hidden=1280,
    audio_layers=32,
    audio_heads=20,
)


def build(folder: Path, kind: str, args: argparse.Namespace) -> OmniModule:
    adapter = AdapterConfig(kind=kind, rank=args.rank, alpha=2.0 * args.rank, dropout=args.dropout)  # type: ignore[arg-type]
    module = OmniModule(
        str(folder),
        adapter=adapter,
        dtype=args.dtype,
        init="random",
        gradient_checkpointing=args.checkpointing,
    )
    torch.manual_seed(0)
    with torch.device(args.device):  # made where they stay: 7B weights never pass through the host
        module.configure_model()
    module.to(args.device).train()
    return module


def make_batch(module: OmniModule, args: argparse.Namespace) -> Batch:
    """B samples of T text tokens, the last ``targets`` of each supervised."""
    shape = (args.batch, args.tokens)
    ids = torch.randint(0, 256, shape)  # bytes: below the media tokens
    labels = torch.full(shape, -100)
    labels[:, -args.targets :] = ids[:, -args.targets :]
    positions = torch.arange(args.tokens).expand(3, *shape).contiguous()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": positions}
    sample = Sample("bench/0", "bench", "none", "train", "0")
    return Batch(inputs, labels, [sample] * args.batch, [False] * args.batch).to(args.device)


def useful_flop(module: OmniModule, args: argparse.Namespace) -> float:
    """Floating-point operations that the step cannot do without; recomputation is not counted.

    A frozen weight costs 2 forward and 2 for the gradient of its input, an adapter weight 6, causal attention
    half of its square three times; the head runs on targets alone.
    """
    tokens = args.batch * args.tokens
    frozen = trained = 0
    for layer in module.decoder().modules():
        if isinstance(layer, LoRALinear):
            frozen += layer.base.weight.numel()
            trained += sum(p.numel() for p in layer.parameters() if p.requires_grad)
        elif isinstance(layer, nn.Linear):
            frozen += layer.weight.numel()
    frozen -= sum(m.base.weight.numel() for m in module.decoder().modules() if isinstance(m, LoRALinear))
    text: Any = module.model.config.text_config  # type: ignore[union-attr]
    attention = text.num_hidden_layers * 6 * args.batch * args.tokens**2 * text.hidden_size
    head = 4 * text.hidden_size * text.vocab_size * args.batch * args.targets
    return float((4 * frozen + 6 * trained) * tokens + attention + head)


def measure(kinds: Sequence[str], args: argparse.Namespace) -> list[Result]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder, args.size)
        modules = {kind: build(folder, kind, args) for kind in kinds} if args.size == "tiny" else {}
        results = []
        # The 7B shape does not fit twice: its kinds are timed one after the other.
        for group in [list(kinds)] if modules else [[k] for k in kinds]:
            members = {k: modules.get(k) or build(folder, k, args) for k in group}
            results += time_group(members, args)
            del members
            if args.device == "cuda":
                torch.cuda.empty_cache()
    return results


def time_group(members: dict[str, OmniModule], args: argparse.Namespace) -> list[Result]:
    trained = {k: [p for p in m.parameters() if p.requires_grad] for k, m in members.items()}
    optimizers = {k: torch.optim.AdamW(p, lr=1e-4, fused=args.device == "cuda") for k, p in trained.items()}
    batches = {k: make_batch(m, args) for k, m in members.items()}
    times: dict[str, list[float]] = {k: [] for k in members}
    peaks: dict[str, float] = {}
    for step in range(args.warmup + args.steps):
        for kind, module in members.items():
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            begin = time.perf_counter()
            loss_sum, tokens = module.losses(batches[kind])
            (loss_sum.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained[kind], 1.0)
            optimizers[kind].step()
            optimizers[kind].zero_grad(set_to_none=True)
            if args.device == "cuda":
                torch.cuda.synchronize()
                peaks[kind] = torch.cuda.max_memory_allocated() / 2**30
            if step >= args.warmup:
                times[kind].append(time.perf_counter() - begin)
    return [result(k, m, statistics.median(times[k]), peaks.get(k), args) for k, m in members.items()]


def result(
    kind: str, module: OmniModule, step_s: float, peak_gib: float | None, args: argparse.Namespace
) -> Result:
    tflop = useful_flop(module, args) / 1e12
    peak = args.peak_tflops
    if peak is None and args.device == "cuda":
        name = torch.cuda.get_device_name()
        peak = next((rate for key, rate in PEAK_TFLOPS.items() if key in name), None)
    return Result(
        adapter=kind,
        step_s=round(step_s, 5),
        tokens_per_s=round(args.batch * args.tokens / step_s, 1),
        useful_tflop=round(tflop, 4),
        tflop_per_s=round(tflop / step_s, 3),
        mfu=None if peak is None else round(tflop / step_s / peak, 4),
        peak_gib=None if peak_gib is None else round(peak_gib, 2),
        trained_parameters=sum(p.numel() for p in module.parameters() if p.requires_grad),
    )


def main(argv: Sequence[str] | None = None) -> list[Result]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["tiny", "7b"], default="tiny")
    parser.add_argument("--kinds", nargs="+", choices=["ilora", "lora"], default=["ilora", "lora"])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=4, help="samples to a step")
    parser.add_argument("--tokens", type=int, default=256, help="tokens to a sample (2048 for the GPU goals)")
    parser.add_argument("--targets", type=int, default=64, help="supervised tokens to a sample")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations for backward")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default=None)
    parser.add_argument("--peak-tflops", type=float, default=None, help="dense rate that MFU is a share of")
    args = parser.parse_args(argv)
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    results = measure(args.kinds, args)
    for one in results:
        print(json.dumps(asdict(one)))
    return results


if __name__ == "__main__":
    main()
