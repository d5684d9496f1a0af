"""What all makers of tiny checkpoints share: sizes, an empty folder and fixed random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class TinySizes:
    """Sizes that every tiny checkpoint has.

    Args:
        hidden: Width of the language model.
        layers: Decoder layers of the language model.
        heads: Attention heads of the language model.
        kv_heads: Key and value heads of the language model.
        vision_hidden: Width of the vision encoder.
        vision_layers: Layers of the vision encoder.
        audio_hidden: Width of the audio encoder.
        audio_layers: Layers of the audio encoder.
        vocab: Upper bound of the vocabulary.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 32
    vision_layers: int = 2
    audio_hidden: int = 32
    audio_layers: int = 2
    vocab: int = 600


def fresh(out: Path | str, part: str = "") -> Path:
    """Return a folder to write in, made when absent.

    Raises:
        FileExistsError: If it, or its sub-folder ``part``, already holds a checkpoint.
    """
    folder = Path(out)
    if (folder / part / "config.json").exists():
        raise FileExistsError(f"{folder} already holds a checkpoint; name an empty folder or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def seeded(make: Callable[[], Any], seed: int) -> Any:
    """Return a new model whose random weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mrope_section(head_width: int) -> list[int]:
    """Divide the rotary pairs of a head among time, height and width, as the published 16 : 24 : 24."""
    half = head_width // 2
    time = half // 4
    height = (half - time) // 2
    return [time, height, half - time - height]
