"""``model ...``: commands on checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

# Sizes, maker, and how the folder is named in a config, of each paradigm.
_TINY = {
    "native": ("TinyNativeConfig", "make_tiny_native", "--model.init_args.pretrained {0}"),
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


def tiny(words: Sequence[str]) -> None:
    """Write a tiny checkpoint folder.

    Args:
        words: Options after ``model tiny``.
    """
    from jsonargparse import ArgumentParser

    from crab_lightning import models

    # The sizes differ between paradigms, so the choice is read before the parser is made.
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--paradigm", choices=list(_TINY), default="native")
    sizes_name, maker_name, usage = _TINY[first.parse_known_args(list(words))[0].paradigm]
    parser = ArgumentParser(
        prog="cli.py model tiny",
        description="Write a tiny checkpoint folder: config, weights, tokenizer and processor.",
    )
    parser.add_argument("--paradigm", choices=list(_TINY), default="native", help="Kind of model to write.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write.")
    parser.add_argument("--seed", type=int, default=0, help="Fixes the random weights.")
    parser.add_class_arguments(getattr(models, sizes_name), "sizes")
    args = parser.parse_args(list(words))
    sizes = parser.instantiate_classes(args).sizes
    folder = getattr(models, maker_name)(args.out, config=sizes, seed=args.seed)
    print(f"Wrote {folder}. Use it with {usage.format(folder)}")


def pretrain(words: Sequence[str]) -> None:
    """Pre-train the mini base model of the demo; taken up again where it was stopped.

    Args:
        words: Options after ``model pretrain``.
    """
    from jsonargparse import ArgumentParser

    from crab_lightning.pretrain import PretrainConfig, pretrain_mini

    parser = ArgumentParser(
        prog="cli.py model pretrain",
        description="Train the mini base model that the demo fine-tunes, from random weights on described "
        "scenes of the synthetic world. Takes about 1.5 hours of one CPU core.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="Folder to write; continued if it is half done."
    )
    parser.add_class_arguments(PretrainConfig, "how")
    args = parser.parse_args(list(words))
    folder = pretrain_mini(args.out, parser.instantiate_classes(args).how)
    print(f"Wrote {folder}. Use it with --model.init_args.pretrained {folder}")
