"""``model ...``: commands on checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def tiny(words: Sequence[str]) -> None:
    """Write a tiny checkpoint folder.

    Args:
        words: Options after ``model tiny``.
    """
    from jsonargparse import ArgumentParser

    from crab_lightning.models import TinyNativeConfig, make_tiny_native

    parser = ArgumentParser(
        prog="cli.py model tiny",
        description="Write a tiny checkpoint folder: config, weights, tokenizer and processor.",
    )
    parser.add_argument("--paradigm", choices=["native"], default="native", help="Kind of model to write.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write.")
    parser.add_argument("--seed", type=int, default=0, help="Fixes the random weights.")
    parser.add_class_arguments(TinyNativeConfig, "sizes")
    args = parser.parse_args(list(words))
    sizes = parser.instantiate_classes(args).sizes
    folder = make_tiny_native(args.out, config=sizes, seed=args.seed)
    print(f"Wrote {folder}. Use it with --model.init_args.pretrained {folder}")
