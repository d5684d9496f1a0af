"""``model ...``: commands on checkpoints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.commands.file_arguments import file_to_read, folder_to_write
from crab_lightning.commands.help_text import Options, described, positive
from crab_lightning.files import removed_on_failure

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# For each architecture: the class of its sizes, the function that writes it, and the options that use it.
_TINY = {
    "native": ("TinyNativeConfig", "make_tiny_native", "--model.init_args.pretrained {0}"),
    "qwen3_omni": ("TinyQwen3OmniConfig", "make_tiny_qwen3_omni", "--model.init_args.pretrained {0}"),
    "llm_va": (
        "TinyLlmVaConfig",
        "make_tiny_llm_va",
        "--model.init_args.pretrained {0}/llm --model.init_args.vision {0}/clip"
        " --model.init_args.beats {0}/beats",
    ),
    "vllm_a": (
        "TinyVllmAConfig",
        "make_tiny_vllm_a",
        "--model.init_args.pretrained {0}/vllm --model.init_args.beats {0}/beats",
    ),
}


def _parser(command: str, about: Callable[..., object]) -> ArgumentParser:
    """Return a parser with ``--out``, to which the fields of a class are added as options."""
    from jsonargparse import ArgumentParser

    # An error is printed in one line, without the usage of all options.
    made = ArgumentParser(
        allow_abbrev=False, exit_on_error=False, prog=f"cli.py model {command}", description=described(about)
    )
    made.add_argument("--out", type=str, required=True, help="Folder to write.")
    return made


def tiny(words: Sequence[str]) -> None:
    """Write a tiny checkpoint folder with random weights: config, weights, tokenizer and processor."""
    from crab_lightning import mini

    # The sizes differ between paradigms, so the choice is read before the parser is made.
    first = Options("model tiny", add_help=False)
    first.add_argument("--paradigm", choices=list(_TINY), default="native")
    sizes_name, maker_name, usage = _TINY[first.parse_known_args(list(words))[0].paradigm]
    parser = _parser("tiny", tiny)
    parser.add_argument("--paradigm", choices=list(_TINY), default="native", help="Kind of model to write.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random weights.")
    text_help = "Text model of llm_va, instead of a random one: 'smollm2' (its package) or a folder."
    parser.add_argument("--text", type=str, default=None, help=text_help)
    parser.add_class_arguments(getattr(mini, sizes_name), "sizes")
    args = parser.parse_args(list(words))
    sizes = parser.instantiate(args).sizes
    options: dict[str, Any] = {"config": sizes, "seed": args.seed}
    if args.text is not None:
        if args.paradigm != "llm_va":
            raise ValueError(
                f"--text is for --paradigm llm_va, not {args.paradigm}; `model pocket` puts a text model"
                f" into a checkpoint for OmniModule"
            )
        options["text"] = args.text
    out = folder_to_write(args.out)
    with removed_on_failure(out):
        folder = getattr(mini, maker_name)(out, **options)
    print(f"Wrote {folder}. Use it with {usage.format(folder)}")


def pocket(words: Sequence[str]) -> None:
    """Write a small checkpoint for OmniModule.

    Its text model has the weights of a small pre-trained text model. Its vision tower and its audio tower are
    random, so train it before you ask about clips.
    """
    from crab_lightning.mini import PocketTowers, make_pocket

    parser = _parser("pocket", pocket)
    parser.add_argument(
        "--text",
        type=str,
        default="smollm2",
        help="'smollm2' (SmolLM2-135M-Instruct from its package), or the folder of a Llama or Qwen2.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random towers.")
    parser.add_class_arguments(PocketTowers, "towers")
    args = parser.parse_args(list(words))
    towers = parser.instantiate(args).towers
    out = folder_to_write(args.out)
    with removed_on_failure(out):
        folder = make_pocket(out, args.text, config=towers, seed=args.seed)
    print(f"Wrote {folder}. Use it with --model.init_args.pretrained {folder}")


def beats(words: Sequence[str]) -> None:
    """Write a published BEATs checkpoint (.pt) as a folder of config.json and model.safetensors.

    --model.init_args.beats reads the folder without pickle. A weight that the model does not have is an
    error. The classifier of a fine-tuned checkpoint is left out.

    Raises:
        FileExistsError: If the folder contains a model already.
    """
    parser = Options("model beats-convert", beats)
    parser.option(
        "--checkpoint", "the published file, such as BEATs_iter3_plus_AS2M.pt", file_to_read, required=True
    )
    parser.option("--out", "folder to write", folder_to_write, required=True)
    args = parser.parse_args(words)

    from crab_lightning.encoders import load_beats, save_beats

    if (args.out / "config.json").exists():
        raise FileExistsError(f"--out {args.out} contains a model already; name a new folder")
    encoder = load_beats(args.checkpoint)
    save_beats(encoder, args.out)
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    print(
        f"Wrote {args.out}: BEATs, {millions:.1f} M weights. Use it with --model.init_args.beats {args.out}"
    )


def pretrain(words: Sequence[str]) -> None:
    """Train the mini base model that the demo fine-tunes, from random weights.

    The model learns from descriptions of scenes of the synthetic data. The stages are in
    crab_lightning/mini/pretrain/base.py. The command writes a model card next to the weights. It takes
    several hours on one CPU core. After an interruption, start the same command again.
    """
    from crab_lightning.mini import PretrainConfig, pretrain_mini

    parser = _parser("pretrain", pretrain)
    parser.add_class_arguments(PretrainConfig, None)
    args = parser.parse_args(list(words))
    config = PretrainConfig(**{key: args[key] for key in asdict(PretrainConfig())})
    made_by = shlex.join(["python", "cli.py", "model", "pretrain", *words])
    folder = pretrain_mini(folder_to_write(args.out), config, made_by)
    print(f"Wrote {folder}. Use it with --model.init_args.pretrained {folder}")


def encoders(words: Sequence[str]) -> None:
    """Train the random CLIP and BEATs that `model tiny --paradigm llm_va` wrote.

    The two learn from labelled scenes of the synthetic data. The weights in the folder are replaced. Without
    this step the connectors would only get random features.
    """
    parser = Options("model encoders", encoders)
    add = parser.option
    add("--folder", "folder that contains clip/ and beats/", Path, required=True)
    add("--vision-steps", "optimizer steps of CLIP, 12 pictures each", positive, 800)
    add("--audio-steps", "optimizer steps of BEATs, 10 clips of 4 s each", positive, 300)
    add("--seed", "seed of the scenes", int, 1)
    add("--workers", "number of processes that draw scenes, besides the one that trains", int, 0)
    args = parser.parse_args(words)

    from crab_lightning.mini import pretrain_encoders

    pretrain_encoders(
        args.folder,
        vision_steps=args.vision_steps,
        audio_steps=args.audio_steps,
        seed=args.seed,
        workers=args.workers,
    )
    print(f"Trained {args.folder / 'clip'} and {args.folder / 'beats'}")


def mini_sam2(words: Sequence[str]) -> None:
    """Train a tiny SAM2 (class Sam2Model of transformers) on shapes of Mini AV-UIE.

    The prompts of the model are boxes and points. The model cannot segment anything else.

    Raises:
        FileExistsError: If the folder contains a model already.
    """
    parser = Options("model sam2-mini", mini_sam2)
    parser.option("--out", "folder to write", folder_to_write, required=True)
    parser.option("--seed", "seed of the weights and pictures", int, 0)
    parser.option("--minutes", "CPU minutes after which training ends", float, 20.0)
    parser.option("--steps", "steps after which training ends", int, 1500)
    args = parser.parse_args(words)

    from crab_lightning.mini.pretrain.sam2 import MiniSam2Recipe, train_mini_sam2

    if (args.out / "config.json").exists():
        raise FileExistsError(f"--out {args.out} contains a model already; name a new folder")
    recipe = MiniSam2Recipe(seed=args.seed, minutes=args.minutes, steps=args.steps)
    command = " ".join(["cli.py model sam2-mini", *words])
    scores = train_mini_sam2(args.out, recipe, command, lambda line: print(line, file=sys.stderr, flush=True))
    reached = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    print(f"Wrote {args.out}: J with true prompts on unseen test rows: {reached}")


def sam2(words: Sequence[str]) -> None:
    """Write an official SAM2.1 checkpoint (.pt, any of the four sizes) as a transformers folder.

    The image and the video predictor read the folder. A tensor that the model does not have is an error.
    """
    parser = Options("model sam2-convert", sam2)
    parser.option("--checkpoint", "sam2.1_hiera_*.pt", file_to_read, required=True)
    parser.option("--out", "folder to write", folder_to_write, required=True)
    args = parser.parse_args(words)

    from crab_lightning.segmentation.convert import convert_checkpoint

    print(f"Wrote {args.out}: SAM2.1 {convert_checkpoint(args.checkpoint, args.out)}")
