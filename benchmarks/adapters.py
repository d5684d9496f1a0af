"""Time and memory of the adapted linear layer beside a frozen layer, PEFT LoRA and a loop over heads.

    python benchmarks/adapters.py projections [--dropout 0.1]   seven projections of one 7B decoder layer
    python benchmarks/adapters.py grid                          72 shapes: width, rank, heads, tokens, dtype
    python benchmarks/adapters.py step [--dropout 0.1]          a training step of real thinker classes

Variants run in one process, in shuffled order within every round; a figure is the median over rounds and a
ratio is the median of the ratios within rounds, so that a slow spell of a shared machine meets all variants.
``--clock cpu`` counts the processor time of this process instead of wall time: with ``--threads 1`` it is
steady on a busy machine. Kept bytes are the storages that autograd holds between forward and backward,
without the layer's input and the weights.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crab_lightning.adapters import ADAPTERS, AdapterConfig

# Qwen2.5-7B: hidden 3584, 4 key-value heads of 128, MLP 18944.
PROJECTIONS = {
    "q_proj": (3584, 3584),
    "k_proj": (3584, 512),
    "v_proj": (3584, 512),
    "o_proj": (3584, 3584),
    "gate_proj": (3584, 18944),
    "up_proj": (3584, 18944),
    "down_proj": (18944, 3584),
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class HeadLoop(nn.Module):
    """The released layer, written from its three forward formulas: a router on x and a loop over heads."""

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scaling = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        size: dict[str, Any] = {"dtype": base.weight.dtype, "device": base.weight.device, "bias": False}
        self.lora_A = nn.Linear(base.in_features, config.rank, **size)
        self.lora_route = nn.Linear(base.in_features, config.heads, **size)
        self.heads = nn.ModuleList(
            nn.Linear(config.rank, base.out_features, **size) for _ in range(config.heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus the heads' updates, one after the other."""
        y: Tensor = self.base(x)
        routes = torch.softmax(self.lora_route(x), dim=-1, dtype=torch.float32).to(y.dtype)
        z = self.lora_A(self.dropout(x))
        for i, head in enumerate(self.heads):
            y = y + routes[..., i : i + 1] * head(z) * self.scaling
        return y


def peft_layer(base: nn.Linear, config: AdapterConfig) -> nn.Module:
    from peft import LoraConfig
    from peft.tuners.lora import Linear as PeftLinear

    settings = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    layer: nn.Module = PeftLinear(base, adapter_name="default", config=LoraConfig(**settings), **settings)
    base.requires_grad_(False)
    return layer


def our_layer(kind: str, base: nn.Linear, config: AdapterConfig) -> nn.Module:
    # The other variants keep their adapters in the base's type: like is compared with like.
    return ADAPTERS[kind](base, config).to(base.weight.dtype)


def variants() -> dict[str, Callable[[nn.Linear, AdapterConfig], nn.Module]]:
    found: dict[str, Callable[[nn.Linear, AdapterConfig], nn.Module]] = {"frozen": lambda base, config: base}
    try:
        import peft  # noqa: F401

        found["peft lora"] = peft_layer
    except ImportError:
        print("peft is not installed: 'our lora' is the only plain LoRA measured")
    found["our lora"] = partial(our_layer, "lora")
    found["head loop"] = HeadLoop
    found["ilora"] = partial(our_layer, "ilora")
    return found


def clock(args: argparse.Namespace) -> float:
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if args.clock == "cpu" else time.perf_counter()


def start_from_nonzero(layer: nn.Module) -> None:
    for name, p in layer.named_parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.02 if "lora_B" in name or "heads" in name else 0.05)


@contextmanager
def kept_for_backward(inputs: list[Tensor], layers: list[nn.Module]) -> Iterator[dict[int, int]]:
    """Yield a mapping that fills with the bytes of every storage saved inside the context."""
    known = {t.untyped_storage().data_ptr() for t in inputs}
    known |= {p.untyped_storage().data_ptr() for layer in layers for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in known:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield kept


class Contest:
    """Layers of several variants on the same inputs, timed in shuffled rounds."""

    def __init__(
        self, shapes: list[tuple[int, int]], tokens: int, config: AdapterConfig, args: argparse.Namespace,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.args = args
        place: dict[str, Any] = {"dtype": dtype, "device": args.device}
        self.inputs = [torch.randn(1, tokens, h, **place).requires_grad_() for h, _ in shapes]
        self.grads = [torch.randn(1, tokens, d, **place) for _, d in shapes]
        bases = [nn.Linear(h, d, bias=False, **place).requires_grad_(False) for h, d in shapes]
        self.layers = {name: [build(base, config) for base in bases] for name, build in variants().items()}
        for layers in self.layers.values():
            for layer in layers:
                start_from_nonzero(layer)
        self.forward_s: dict[str, list[float]] = {name: [] for name in self.layers}
        self.total_s: dict[str, list[float]] = {name: [] for name in self.layers}

    def step(self, name: str) -> tuple[float, float]:
        """Return the seconds of forward, and of forward and backward."""
        for x in self.inputs:
            x.grad = None
        for layer in self.layers[name]:
            layer.zero_grad(set_to_none=True)
        started = clock(self.args)
        outputs = [layer(x) for layer, x in zip(self.layers[name], self.inputs, strict=True)]
        middle = clock(self.args)
        torch.autograd.backward(outputs, self.grads)
        return middle - started, clock(self.args) - started

    def run(self, rounds: int, repeats: int = 1) -> None:
        """Time every variant once a round, or take the best of some repeats."""
        names = list(self.layers)
        for name in names:
            self.step(name)
        for _ in range(rounds):
            random.shuffle(names)
            for name in names:
                times = [self.step(name) for _ in range(repeats)]
                self.forward_s[name].append(min(forward for forward, _ in times))
                self.total_s[name].append(min(total for _, total in times))

    def kept_mib(self, name: str) -> float:
        """Return MiB kept for backward beside inputs and weights."""
        with kept_for_backward(self.inputs, self.layers[name]) as kept:
            outputs = [layer(x) for layer, x in zip(self.layers[name], self.inputs, strict=True)]
        del outputs
        return sum(kept.values()) / 2**20

    def ratio(self, name: str, other: str) -> float:
        """Return the median over rounds of one variant's time over another's."""
        return median_ratio(self.total_s[name], self.total_s[other])


def projections(args: argparse.Namespace) -> None:
    config = AdapterConfig(
        rank=args.rank, alpha=2 * args.rank, heads=args.heads, dropout=args.dropout, router=args.router
    )
    contest = Contest(list(PROJECTIONS.values()), args.tokens, config, args, DTYPES[args.dtype])
    contest.run(args.rounds)
    flop = sum(h * d for h, d in PROJECTIONS.values())
    extra = sum(h + args.heads * d for h, d in PROJECTIONS.values())
    print(
        f"7 projections, {args.dtype}, L={args.tokens}, r={args.rank}, n={args.heads}, "
        f"dropout={args.dropout}, router={args.router}; "
        f"FLOP bound {1 + 1.5 * args.rank * extra / flop:.3f} x frozen"
    )
    print("variant       fwd ms  fwd+bwd ms   best ms  x frozen   x loop  kept MiB")
    for name in contest.layers:
        total = contest.total_s[name]
        print(
            f"{name:<10} {1e3 * statistics.median(contest.forward_s[name]):9.1f} "
            f"{1e3 * statistics.median(total):11.1f} {1e3 * min(total):9.1f} "
            f"{contest.ratio(name, 'frozen'):9.3f} {contest.ratio(name, 'head loop'):8.3f} "
            f"{contest.kept_mib(name):9.2f}"
        )
    if "peft lora" in contest.layers:
        print(f"ilora x peft lora {contest.ratio('ilora', 'peft lora'):.3f}")
    exact = len(PROJECTIONS) * args.tokens * (2 * args.rank + 4 * args.heads) / 2**20
    print(f"z in bfloat16 and routes in float32 are {exact:.2f} MiB")


def grid(args: argparse.Namespace) -> None:
    ratios: list[float] = []
    to_peft: list[float] = []
    print("    d dtype     L    r  n  frozen ms  ilora x frozen  x loop")
    shapes = itertools.product(args.widths, DTYPES, (256, 1024), (16, 128), (1, 3, 5))
    for d, dtype, tokens, rank, heads in shapes:
        config = AdapterConfig(
            rank=rank, alpha=2 * rank, heads=heads, dropout=args.dropout, router=args.router
        )
        contest = Contest([(d, d)], tokens, config, args, DTYPES[dtype])
        # Small layers need many calls for a steady figure.
        contest.run(args.rounds, repeats=5 if d * d * tokens < 2e9 else 2)
        ratios.append(contest.ratio("ilora", "head loop"))
        if heads == 1 and "peft lora" in contest.layers:
            to_peft.append(contest.ratio("ilora", "peft lora"))
        frozen_ms = 1e3 * statistics.median(contest.total_s["frozen"])
        row = f"{d:5} {dtype:>5} {tokens:5} {rank:4} {heads:2} {frozen_ms:10.3f}"
        print(f"{row} {contest.ratio('ilora', 'frozen'):15.3f} {ratios[-1]:7.3f}", flush=True)
    print(f"ilora x loop: worst {max(ratios):.3f}, geometric mean {statistics.geometric_mean(ratios):.3f}")
    if to_peft:
        print(f"ilora x peft lora at n=1: geometric mean {statistics.geometric_mean(to_peft):.3f}")


def median_ratio(times: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def thinker(args: argparse.Namespace) -> nn.Module:
    """Return a small Qwen2.5-Omni thinker with random weights."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    width, layers = args.width, args.layers
    text = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 256), "intermediate_size": width * 37 // 7,
        "vocab_size": 4096, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
        "mrope_section": [8, 12, 12]}, "use_sliding_window": False,
    }  # fmt: skip
    audio = {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
             "output_dim": width}  # fmt: skip
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": width,
    }
    config = Qwen2_5OmniThinkerConfig(
        text_config=text, audio_config=audio, vision_config=vision, vision_start_token_id=4090
    )
    torch.manual_seed(0)
    model: nn.Module = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return model.to(args.device, DTYPES[args.dtype])


def step_variant(name: str, args: argparse.Namespace) -> nn.Module:
    """Return the decoder of a thinker with one variant in its seven projections."""
    decoder: Any = thinker(args).get_decoder()  # type: ignore[operator]
    decoder.requires_grad_(False)
    config = AdapterConfig(
        rank=args.rank, alpha=2 * args.rank, heads=args.heads, dropout=args.dropout, router=args.router
    )
    if name != "frozen":
        for path, module in list(decoder.named_modules()):
            if path.rpartition(".")[2] in PROJECTIONS:
                decoder.set_submodule(path, variants()[name](module, config))
    if args.checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    trained: nn.Module = decoder.train()
    return trained


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


def step(args: argparse.Namespace) -> None:
    names = list(variants())
    models = {name: step_variant(name, args) for name in names}
    place: dict[str, Any] = {"dtype": DTYPES[args.dtype], "device": args.device}
    embeds = torch.randn(args.batch, args.tokens, args.width, **place).requires_grad_()
    head = torch.randn(4096, args.width, **place)
    labels = torch.randint(4096, (args.batch, args.tokens), device=args.device)
    optimizers = {}
    for name, model in models.items():
        start_from_nonzero(model)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizers[name] = torch.optim.AdamW(trainable, lr=1e-4, fused=True) if trainable else None
    times: dict[str, list[float]] = {name: [] for name in names}
    kept: dict[str, float] = {}

    def run(name: str) -> float:
        started = clock(args)
        hidden = models[name](inputs_embeds=embeds, use_cache=False).last_hidden_state
        F.cross_entropy((hidden @ head.t()).float().flatten(0, 1), labels.flatten()).backward()  # type: ignore[no-untyped-call]
        if (optimizer := optimizers[name]) is not None:
            optimizer.step()
            optimizer.zero_grad()
        embeds.grad = None
        return clock(args) - started

    peak: dict[str, float] = {}
    for name in names:
        with kept_for_backward([embeds], [models[name]]) as found:
            run(name)
        kept[name] = sum(found.values()) / 2**20
        peak[name] = peak_mib(partial(run, name), args.device)
    for _ in range(args.rounds):
        random.shuffle(names)
        for name in names:
            times[name].append(run(name))
    print(
        f"step: width {args.width}, {args.layers} layers, {args.batch}x{args.tokens} tokens, {args.dtype}, "
        f"r={args.rank}, n={args.heads}, dropout={args.dropout}, checkpointing={args.checkpointing}"
    )
    print("variant           ms   best ms  x frozen   x loop  kept MiB  peak MiB")
    for name in models:
        to = {other: median_ratio(times[name], times[other]) for other in models}
        print(
            f"{name:<10} {1e3 * statistics.median(times[name]):9.1f} {1e3 * min(times[name]):9.1f} "
            f"{to['frozen']:9.3f} {to['head loop']:8.3f} {kept[name]:9.1f} {peak[name]:9.1f}"
        )
        if name == "ilora" and "peft lora" in models:
            print(f"ilora x peft lora {to['peft lora']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for run in (projections, grid, step):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("--dropout", type=float, default=0.0)
        command.add_argument("--router", choices=("latent", "input"), default="latent")
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--clock", choices=("wall", "cpu"), default="wall")
        command.add_argument("--rounds", type=int, default=7)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        if run is grid:
            command.add_argument("--widths", type=int, nargs="+", default=[576, 2048, 3584])
            continue
        command.add_argument("--rank", type=int, default=128 if run is projections else 16)
        command.add_argument("--heads", type=int, default=3)
        command.add_argument("--tokens", type=int, default=1024 if run is projections else 784)
        command.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
        if run is step:
            command.add_argument("--batch", type=int, default=2)
            command.add_argument("--width", type=int, default=512)
            command.add_argument("--layers", type=int, default=8)
            command.add_argument("--checkpointing", action="store_true")
    args = parser.parse_args()
    if args.clock == "cpu" and args.device != "cpu":
        parser.error("--clock cpu measures this process alone; use --clock wall with a GPU")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {args.clock} clock, "
          f"{args.rounds} rounds")  # fmt: skip
    args.run(args)


if __name__ == "__main__":
    main()
