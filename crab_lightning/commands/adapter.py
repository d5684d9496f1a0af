"""``adapter ...``: commands on adapter weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import CHECKPOINT, RUN_CONFIG, Options, positive
from crab_lightning.program import print_table

if TYPE_CHECKING:
    from crab_lightning.adapters.released_table import ThinkerSizes

_HUB_BASE = "Qwen/Qwen2.5-Omni-7B"


def convert(words: Sequence[str]) -> None:
    """Write the released Crab+ weights (a .bin file of 1940 tensors) as an adapter folder.

    --model.init_args.load_adapter reads the folder. With --reverse, write an adapter folder as such a file.
    The command checks all names and shapes.
    """
    from crab_lightning.adapters.released import RELEASED_ALPHA, convert_released, export_released
    from crab_lightning.adapters.released_table import RELEASED_HEADS, RELEASED_RANK

    parser = Options("adapter convert", convert)
    add, switch = parser.option, parser.switch
    add("source", "the released file; with --reverse the adapter folder", Path)
    add("--out", "adapter folder to write; with --reverse the file", Path, required=True)
    switch("--reverse", "convert an adapter folder to a file with the released names")
    switch("--drop-zero", "leave out adapters whose matrix B is zero, which have no effect")
    add("--base", f"folder or hub name of a base model of another size (default: {_HUB_BASE})")
    add("--rank", f"rank of the adapters in the file (default: {RELEASED_RANK})", positive)
    add("--heads", f"number of heads of the adapters in the file (default: {RELEASED_HEADS})", positive)
    add(
        "--alpha",
        f"alpha, which the file does not contain; the update is scaled"
        f" by alpha/rank (default: {RELEASED_ALPHA:g})",
        float,
    )
    args = parser.parse_args(words)
    given = {"rank": args.rank, "heads": args.heads, "alpha": args.alpha}
    given = {name: value for name, value in given.items() if value is not None}
    if args.reverse and (given or args.drop_zero):
        parser.error("--rank, --heads, --alpha and --drop-zero are not for --reverse: the folder has them")
    if args.rank not in (None, RELEASED_RANK) and args.alpha is None:
        parser.error("--alpha: give it with --rank, since the file does not contain it")
    if not args.reverse:
        folder_to_write(str(args.out))
    sizes = None if args.base is None else _sizes(args.base)
    if args.reverse:
        config, empty = export_released(args.source, args.out, sizes=sizes)
        if empty:
            print(f"{len(empty)} layers that the folder leaves out were written as zeros, first {empty[0]}")
        print(
            f"Wrote {args.out}. It contains no settings. A reader has to know them: rank {config.rank}, "
            f"alpha {config.alpha:g}, {config.heads} heads, router on the layer's input"
        )
        return
    done = convert_released(
        args.source,
        args.out,
        sizes=sizes,
        base_model=args.base or _HUB_BASE,
        drop_zero=args.drop_zero,
        **given,
    )
    _print_figures(done.figures, str(args.source))
    dead = sum(layer.dead for layer in done.figures)
    if dead and not args.drop_zero:
        print(f"{dead} adapters are zero and change nothing; --drop-zero leaves them out")
    if args.drop_zero:
        print(f"Left out {len(done.figures) - len(done.kept)} adapters that are zero")
    print(
        f"Wrote {args.out}: {done.tensors:,} tensors, {done.parameters:,} values. "
        f"Use it with --model.init_args.load_adapter {args.out}"
    )


def inspect(words: Sequence[str]) -> None:
    """Show the contents of adapter weights.

    The command shows the kind, the ranks, the routers and the largest values in each tower of the model. It
    also names adapters without effect (their matrix B is zero) and adapters with values that are not finite.

    Raises:
        AdapterError: If the file contains no adapter weights.
    """
    parser = Options("adapter inspect", inspect)
    parser.option("source", "an adapter or run folder, or a file with the released names", Path)
    parser.switch("--json", "print JSON")
    args = parser.parse_args(words)

    from crab_lightning.adapters.checkpoint import (
        AdapterError,
        read_adapter_config,
        read_adapter_metadata,
        read_weights,
    )
    from crab_lightning.adapters.figures import check_ranks, folder_figures, tower_figures
    from crab_lightning.adapters.released import open_released, released_figures
    from crab_lightning.runs.run_folder import find_adapter

    about: dict[str, Any]
    if not args.source.is_file():
        args.source = find_adapter(args.source)
        config = read_adapter_config(args.source)
        layers = folder_figures(read_weights(args.source), config)
        check_ranks(layers, config, args.source)
        about = {"kind": config.kind, "alpha": config.alpha, "dtype": config.dtype, **config.details()}
        about["metadata"] = read_adapter_metadata(args.source)
    else:
        layers = released_figures(open_released(args.source))
        if not layers:
            raise AdapterError(f"{args.source} contains no layer under the released names")
        about = {"kind": "ilora (released names)"}
    if args.json:
        print(json.dumps({"source": str(args.source)} | about | {"towers": tower_figures(layers)}, indent=2))
        return
    _print_figures(layers, str(args.source))
    for name, value in about.items():
        if name != "metadata":
            print(f"{name}: {value}")
    metadata: dict[str, Any] = about.get("metadata", {})
    for name, value in metadata.items():
        print(f"{name}: {value}")
    for tower, row in tower_figures(layers).items():
        for name, largest in row["max_abs_own"].items():
            print(f"{tower}: max|{name}| {largest:.3g}")
        for what in ("dead", "not_finite"):
            if row[what]:
                print(f"{tower}: {len(row[what])} {what.replace('_', ' ')}, first {row[what][0]}")


def export(words: Sequence[str]) -> None:
    """Write the adapters of a run as a PEFT folder, or as a whole checkpoint.

    With --merge, the command adds the update to the base weights and writes a whole checkpoint. Only adapters
    of kind `lora` can be exported, because the update of the other kinds depends on the token or on the task.

    Raises:
        ExportError: If the run's adapters are not plain LoRA.
        FileExistsError: If the folder exists.
    """
    parser = Options("adapter export", export)
    parser.option("checkpoint", CHECKPOINT, Path)
    parser.option("--out", "folder to write; it must not exist", Path, required=True)
    parser.switch("--merge", "write a whole checkpoint instead of a PEFT folder")
    parser.option("--config", RUN_CONFIG)
    args = parser.parse_args(words)
    if args.out.exists():
        raise FileExistsError(f"{args.out} exists already; name a folder that does not")

    from crab_lightning.adapters.export import write_merged, write_peft
    from crab_lightning.inference.loading import load_run

    model, _ = load_run(args.checkpoint, args.config, "cpu")
    if args.merge:
        from transformers import AutoProcessor

        count = write_merged(model.model, AutoProcessor.from_pretrained(model.base_name), args.out)
        print(f"Wrote {args.out}: a checkpoint with the update of {count} layers added to its weights")
        return
    count = write_peft(model.model, model.base_name, args.out)
    print(
        f"Wrote {args.out}: {count} layers. Read it with "
        f"peft.PeftModel.from_pretrained(base_model, '{args.out}'), where base_model is {model.base_name}"
    )


def _print_figures(layers: Sequence[Any], title: str) -> None:
    from crab_lightning.adapters.figures import figures_table, tower_figures

    print_table(figures_table(tower_figures(layers), title))


def _sizes(base: str) -> ThinkerSizes:
    """Return the sizes of a Qwen2.5-Omni base from its config."""
    from transformers import AutoConfig

    from crab_lightning.adapters.released_table import ThinkerSizes

    config: Any = AutoConfig.from_pretrained(base, trust_remote_code=False)
    config = getattr(config, "thinker_config", config)
    for part in ("audio_config", "vision_config", "text_config"):
        if not hasattr(config, part):
            raise ValueError(
                f"--base {base}: {type(config).__name__} has no {part}; give a Qwen2.5-Omni model"
            )
    audio, vision, text = config.audio_config, config.vision_config, config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ThinkerSizes(
        audio_layers=audio.encoder_layers,
        audio_width=audio.d_model,
        vision_blocks=vision.depth,
        vision_width=vision.hidden_size,
        vision_ffn=vision.intermediate_size,
        text_layers=text.num_hidden_layers,
        text_width=text.hidden_size,
        text_queries=text.num_attention_heads * width,
        text_keys=text.num_key_value_heads * width,
        text_ffn=text.intermediate_size,
    )
