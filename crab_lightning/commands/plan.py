"""``plan``: whether a run fits into memory and how long it takes, before any weight is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.help_text import Options
from crab_lightning.commands.trainer import command_line
from crab_lightning.program import print_table

if TYPE_CHECKING:
    from crab_lightning.planning.memory import Setting, Sharding
    from crab_lightning.planning.shape import Shape

_EXPLANATION = """\
Estimate how much memory one device needs and how long a step and the whole run take. When the run does
not fit, the command suggests settings that do. It loads no weights: it reads the sizes of the model from the
config.json in the folders that the config names, or uses published sizes (Qwen2.5-Omni-7B, Qwen2.5-VL-7B,
LLaMA-2-7B, LLaMA-3-8B, CLIP ViT-L/14, BEATs). All architectures and both stages are supported. Keys of
`fit` may follow:

  python cli.py plan --config omni.yaml --devices 8 --memory 80
  python cli.py plan --config omni.yaml --devices 4 --memory 24 --trainer.strategy fsdp2
  python cli.py plan --config omni.yaml --devices 8 --nodes 8 --memory 80 --data.batch_tokens 6000

Memory is estimated for the largest micro-batch, in which all samples are as long as --longest. The formulas
were checked against small runs on a CPU. The 2 GB for CUDA and the 5 % that the allocator wastes are
assumptions. The time assumes that a device achieves --tflops, and that computing and communication happen at
the same time. To get a better estimate, run a few steps and give the measured value as --tflops.
"""


def run(words: Sequence[str]) -> None:
    """Print the plan.

    Args:
        words: Options after ``plan``.

    Raises:
        ValueError: If there are no formulas for the model or the strategy, or a number is not above 0.
        FileNotFoundError: If the sizes of a checkpoint are not known.
    """
    parser = Options("plan", _EXPLANATION)
    add = parser.option
    parser.add_argument(
        "--config",
        "-c",
        action="append",
        required=True,
        help="the run's config, as for fit; the option may be repeated",
    )
    add("--devices", "number of devices in each node (default: 1)", int, 1)
    add("--nodes", "number of nodes (default: 1)", int, 1)
    add("--memory", "memory of each device (default: 80)", float, 80.0, metavar="GB")
    add("--tokens", "mean number of tokens in a sample (default: that of AV-UIE v2, 725 for OmniModule)", int)
    add(
        "--longest",
        "number of tokens in the longest samples (default: that of AV-UIE v2, 1350 for OmniModule)",
        int,
    )
    add("--targets", "number of target tokens in a sample (default: 120)", int, 120)
    add(
        "--patches",
        "number of vision patches in a sample (default: those of 10 frames, 1280 for OmniModule)",
        int,
    )
    add("--audio-tokens", "number of audio tokens in a sample (default: 250, for 10 s)", int, 250)
    add(
        "--samples",
        "number of samples in an epoch (default: data.epoch_size, else 222,000 as in AV-UIE v2)",
        int,
    )
    add("--tflops", "TFLOP/s that a device achieves (default: 400, as an H100)", float, 400.0)
    add(
        "--link",
        "speed of the connection between the devices of a node (default: 300)",
        float,
        300.0,
        metavar="GB/S",
    )
    add(
        "--network",
        "speed of the connection between nodes, for each device (default: 40)",
        float,
        40.0,
        metavar="GB/S",
    )
    args, others = parser.parse_known_args(list(words))
    for name in ("devices", "nodes", "memory", "tokens", "longest", "targets", "tflops", "link", "network"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be above 0")
    words = [word for name in args.config for word in ("--config", name)] + others
    # The config is read as by ``fit``, but nothing is built.
    config: Any = command_line("fit", words, instantiate_classes=lambda cli: None).config
    shape = _shape(config.model, list(config.data.get("tasks") or ()) or None)
    own = {"tokens": args.tokens, "longest": args.longest, "patches": args.patches, "samples": args.samples}
    assumed = ", ".join(
        f"--{name}" for name, value in own.items() if value is None and "sources" in config.data
    )
    args.tokens = args.tokens or shape.sample_tokens[0]
    args.longest = args.longest or shape.sample_tokens[1]
    args.patches = args.patches or shape.patches
    setting = _setting(config, args)
    _print(shape, setting, args.memory * 1e9, _together(config, shape, setting, args.memory * 1e9))
    if assumed:
        from rich.console import Console

        text = (
            f"This config trains on captions, but {assumed} use values of AV-UIE v2. Give those of your data."
        )
        Console().print(text, highlight=False, soft_wrap=True)


def _together(config: Any, shape: Shape, setting: Setting, limit: float) -> tuple[str, float] | None:
    """Return the changes that together make a run fit, and the memory in bytes that it needs with them.

    ``None`` means that the run fits without changes, that a single change is enough, or that nothing helps.
    """
    from crab_lightning.planning.memory import knobs, memory

    def needed(one: Shape, how: Setting) -> float:
        return sum(memory(one, how).values())

    if needed(shape, setting) <= limit or any(value <= limit for _, value, _ in knobs(shape, setting, limit)):
        return None
    made: dict[str, str] = {}
    adapter = config.model.init_args.adapter
    if adapter is not None and adapter.rank > 16:
        scale = adapter.alpha / adapter.rank
        adapter.rank, adapter.alpha = 16, 16 * scale  # the last use of the config
        made |= {"model.init_args.adapter.rank": "16", "model.init_args.adapter.alpha": f"{16 * scale:g}"}
        shape = _shape(config.model, list(config.data.get("tasks") or ()) or None)
    for _ in range(20):
        if needed(shape, setting) <= limit:
            return " ".join(f"--{key} {value}" for key, value in made.items()), needed(shape, setting)
        found = knobs(shape, setting, limit)
        if not found:
            return None
        # A change that is enough by itself is taken first, then quantization, which costs less speed than
        # others.
        text, _, setting = min(found, key=lambda one: (one[1] > limit, "quantization" not in one[0]))
        made |= dict(part.split(" ", 1) for part in text.split(" and "))
    return None


def _shape(model: Any, tasks: list[str] | None) -> Shape:
    """Return the sizes of a config's model."""
    from crab_lightning.adapters import AdapterConfig
    from crab_lightning.configuration.objects import class_of
    from crab_lightning.models import LlmVaModule, OmniModule, VllmAModule
    from crab_lightning.planning.composite_shape import measure_llm_va, measure_vllm_a
    from crab_lightning.planning.shape import measure

    init = model.init_args
    adapter = None if init.adapter is None else AdapterConfig(**dict(init.adapter)).completed(None, tasks)
    module = class_of(model.class_path)
    if issubclass(module, OmniModule):
        return measure(str(init.pretrained), adapter, module)
    if issubclass(module, LlmVaModule):
        return measure_llm_va(init, adapter, module)
    if issubclass(module, VllmAModule):
        return measure_vllm_a(init, adapter, module)
    raise ValueError(
        f"model.class_path is {model.class_path}; plan knows OmniModule, LlmVaModule, VllmAModule and "
        "classes derived from them. Run a few steps with --trainer.max_steps 5 and read the memory that "
        "Lightning logs"
    )


def _setting(config: Any, args: argparse.Namespace) -> Setting:
    from crab_lightning.planning.memory import Setting

    init, data, trainer = config.model.init_args, config.data, config.trainer
    optimizer = str(init.optimizer.class_path).rpartition(".")[2] if init.optimizer else "AdamW"
    return Setting(
        devices=args.devices,
        nodes=args.nodes,
        sharding=_sharding(trainer.strategy, args.devices * args.nodes),
        rows=data.batch_size,
        sample_tokens=args.tokens,
        longest_tokens=max(args.longest, args.tokens),
        batch_tokens=data.get("batch_tokens"),
        target_tokens=args.targets,
        patches=args.patches,
        audio_tokens=args.audio_tokens,
        accumulate=trainer.accumulate_grad_batches,
        checkpointing=init.gradient_checkpointing,
        weight_bytes=2 if init.dtype == "bfloat16" else 4,
        four_bit=init.get("quantization") == "4bit",
        moments=0 if optimizer == "SGD" else 2,
        samples=args.samples or data.get("epoch_size") or 222_000,
        epochs=max(1, trainer.max_epochs or 1),
        flops=args.tflops * 1e12,
        link=args.link * 1e9,
        network=args.network * 1e9,
    )


def _sharding(strategy: Any, processes: int) -> Sharding:
    """Return how a strategy of Lightning or of this package distributes the weights."""
    name = strategy if isinstance(strategy, str) else strategy.class_path.rpartition(".")[2]
    if name in ("Fsdp1Strategy", "Fsdp2Strategy"):
        init = strategy.init_args
        name = (
            "fsdp2_offload" if init.get("cpu_offload") else "fsdp2_hybrid" if init.get("hybrid") else "fsdp2"
        )
    match name.replace("fsdp1", "fsdp2"):  # both shard the same units and send the same amounts
        case "fsdp2" | "fsdp2_offload" | "fsdp2_hybrid" as sharding:
            return sharding
        case "auto" | "ddp" | "DDPStrategy":
            return "ddp" if processes > 1 else "none"
        case _:
            raise ValueError(
                f"trainer.strategy is {name!r}; plan knows: auto, ddp, fsdp2, fsdp2_hybrid, fsdp2_offload, "
                "fsdp1"
            )


def _print(shape: Shape, setting: Setting, limit: float, together: tuple[str, float] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from crab_lightning.planning.memory import knobs, memory, pace

    s = setting
    console = Console(highlight=False, soft_wrap=True)
    trained = shape.adapters or shape.base
    weights = f"{shape.base / 1e9:.2f} B" if shape.base >= 1e8 else f"{shape.base / 1e6:.1f} M"
    console.print(
        f"{shape.source}: {weights} weights, {trained / 1e6:,.0f} M trained.\n{s.world} x "
        f"{limit / 1e9:g} GB, strategy {s.sharding}, micro-batches of {s.most_tokens:,} tokens at most, "
        f"{s.accumulate} in a step."
    )
    parts = memory(shape, s)
    total = sum(parts.values())
    table = Table("memory of a device", "GB")
    for name, value in parts.items():
        if value:
            table.add_row(name, f"{value / 1e9:.2f}")
    table.add_section()
    table.add_row("all", f"{total / 1e9:.2f}")
    for column in table.columns[1:]:
        column.justify = "right"
    print_table(table, console)
    if total <= limit:
        console.print(f"It fits, with {(limit - total) / 1e9:.1f} GB to spare.")
        kept = replace(s, checkpointing=False)
        needed = sum(memory(shape, kept).values())
        if s.checkpointing and needed <= limit:
            console.print(
                f"--model.init_args.gradient_checkpointing false fits too, with {needed / 1e9:.1f} GB: "
                f"{pace(shape, kept).compute_s:.2f} s of computing in a step, against "
                f"{pace(shape, s).compute_s:.2f}."
            )
    else:
        console.print(f"It does not fit: {(total - limit) / 1e9:.1f} GB too much. These settings would help:")
        for text, value, _ in knobs(shape, s, limit):
            fits = "fits" if value <= limit else "still too much"
            console.print(f"  --{text}: {value / 1e9:.1f} GB, {fits}")
        fits_alone = any(value <= limit for _, value, _ in knobs(shape, s, limit))
        if together is None and not fits_alone:
            console.print(
                "None of these settings is enough. Use more devices with fsdp2, or a smaller model."
            )
        if together is not None:
            console.print(f"These fit together, with {together[1] / 1e9:.1f} GB:\n  {together[0]}")
    if shape.trains_towers:
        console.print(
            "The adapters in the towers are trained too. The activations that the towers keep"
            " for the backward pass are not counted."
        )
    if s.sharding == "fsdp2_offload":
        console.print("Copies between host and device and the optimizer's step on the host are not counted.")
    found = pace(shape, s)
    time = f"{found.hours:.1f} hours" if found.hours >= 1 else f"{found.hours * 60:.1f} minutes"
    bound = "computing" if found.compute_s >= found.transfer_s else "communication"
    console.print(
        f"A step: {found.compute_s:.2f} s of computing, {found.transfer_s:.2f} s of communication "
        f"({found.sent_bytes / 1e9:.1f} GB sent by a device), so {bound} decides; "
        f"{found.tokens_per_s:,.0f} input tokens/s on all devices.\n"
        f"{s.epochs} epochs of {s.samples:,} samples: about {time}, evaluation left out."
    )
