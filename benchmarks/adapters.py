"""Time and memory of the adapted linear layer beside a frozen layer, PEFT LoRA and a loop over heads.

    python benchmarks/adapters.py projections [--dropout 0.1]   seven projections of one 7B decoder layer
    python benchmarks/adapters.py grid                          72 shapes: width, rank, heads, tokens, dtype

Variants run in one process, in shuffled order within every round; a figure is the median over rounds and a
ratio is the median of the ratios within rounds, so that a slow spell of a shared machine meets all variants.
``--clock cpu`` counts the processor time of this process instead of wall time: with ``--threads 1`` it is
steady on a busy machine. Kept bytes are the storages that autograd holds between forward and backward,
without the layer's input and the weights. ``products`` are the matrix products of ``ilora`` alone.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from crab_lightning.adapters import ADAPTERS, AdapterConfig
from crab_lightning.adapters.function import add_product

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


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, u: Tensor, dz: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, a, b, u, dz)
        y = x @ weight.t()
        x @ a.t()
        add_product(y, u, b, 1.0)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, u, dz = ctx.saved_tensors
        g @ b
        return (g @ weight).addmm_(dz, a), None, dz.t() @ x, g.t() @ u, None, None


class ProductsAlone(nn.Module):
    """The matrix products of an I-LoRA layer and nothing between them: a floor that a machine sets."""

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.config = config
        place: dict[str, Any] = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.randn(config.rank, base.in_features, **place))
        self.lora_B = nn.Parameter(torch.randn(base.out_features, config.heads * config.rank, **place))

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus an update that belongs to no input."""
        tokens = x.view(-1, x.shape[-1])
        u = tokens.new_ones(len(tokens), self.lora_B.shape[1])
        dz = tokens.new_ones(len(tokens), self.config.rank)
        y: Tensor = _Products.apply(tokens, self.base.weight, self.lora_A, self.lora_B, u, dz)
        return y.view(*x.shape[:-1], -1)


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
    found["products"] = ProductsAlone
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


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--router", choices=("latent", "input"), default="latent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def prepare(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, set threads and seeds, and print the conditions of the measurement."""
    args = parser.parse_args()
    if args.clock == "cpu" and args.device != "cpu":
        parser.error("--clock cpu measures this process alone; use --clock wall with a GPU")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {args.clock} clock, "
          f"{args.rounds} rounds")  # fmt: skip
    return args


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for run in (projections, grid):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        add_common_arguments(command)
        if run is grid:
            command.add_argument("--widths", type=int, nargs="+", default=[576, 2048, 3584])
            continue
        command.add_argument("--rank", type=int, default=128)
        command.add_argument("--heads", type=int, default=3)
        command.add_argument("--tokens", type=int, default=1024)
        command.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    args = prepare(parser)
    args.run(args)


if __name__ == "__main__":
    main()
