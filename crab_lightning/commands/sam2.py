"""``model sam2-mini`` and ``model sam2-convert``: SAM2 folders for the mask decoder."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from crab_lightning.commands.file_arguments import file_to_read, folder_to_write
from crab_lightning.commands.help_text import Options


def mini(words: Sequence[str]) -> None:
    """Train the tiny SAM2 of Mini AV-UIE.

    Args:
        words: Options after ``model sam2-mini``.
    """
    parser = Options(
        "model sam2-mini",
        "Train a tiny SAM2 (class Sam2Model of transformers) on shapes of Mini AV-UIE, with"
        " boxes and points as prompts. It cannot segment anything else.",
    )
    parser.add_argument("--out", type=folder_to_write, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and pictures")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes after which training ends")
    parser.add_argument("--steps", type=int, default=1500, help="steps after which training ends")
    args = parser.parse_args(words)

    from crab_lightning.mini.pretrain.sam2 import MiniSam2Recipe, train_mini_sam2

    if (args.out / "config.json").exists():
        raise FileExistsError(f"--out {args.out} holds a model already; name a new folder")
    recipe = MiniSam2Recipe(seed=args.seed, minutes=args.minutes, steps=args.steps)
    command = " ".join(["cli.py model sam2-mini", *words])
    scores = train_mini_sam2(args.out, recipe, command, lambda line: print(line, file=sys.stderr, flush=True))
    reached = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    print(f"Wrote {args.out}: J with true prompts on unseen test rows: {reached}")


def convert(words: Sequence[str]) -> None:
    """Convert an official checkpoint.

    Args:
        words: Options after ``model sam2-convert``.
    """
    parser = Options(
        "model sam2-convert",
        "Write an official SAM2.1 checkpoint (.pt, any of the four sizes) as a transformers folder for the "
        "image and the video predictor. A tensor that the model does not have is an error.",
    )
    parser.add_argument("--checkpoint", type=file_to_read, required=True, help="sam2.1_hiera_*.pt")
    parser.add_argument("--out", type=folder_to_write, required=True, help="folder to write")
    args = parser.parse_args(words)

    from crab_lightning.segmentation.convert import convert_checkpoint

    print(f"Wrote {args.out}: SAM2.1 {convert_checkpoint(args.checkpoint, args.out)}")
