"""The sizes of small checkpoints, and helpers for all that write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
        vision_heads: Attention heads of the vision encoder.
        audio_hidden: Width of the audio encoder.
        audio_layers: Layers of the audio encoder.
        audio_heads: Attention heads of the audio encoder.
        vocab: Upper bound of the number of tokens. The models with connectors have four more.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 32
    vision_layers: int = 2
    vision_heads: int = 2
    audio_hidden: int = 32
    audio_layers: int = 2
    audio_heads: int = 2
    vocab: int = 600

    multiples: ClassVar[dict[str, tuple[int, str]]] = {
        "hidden": (2, "heads"),
        "heads": (1, "kv_heads"),
        "vision_hidden": (4, "vision_heads"),
        "audio_hidden": (1, "audio_heads"),
    }
    """For each size, a factor and another size; an empty name stands for 1.

    The size must be a multiple of the factor times the other size.
    """

    def __post_init__(self) -> None:
        """Check that all numbers are positive, and check ``multiples``.

        Raises:
            ValueError: If a number is not positive, or a size is not such a multiple.
        """
        for name, number in vars(self).items():
            if not isinstance(number, bool | str | None) and not number > 0:
                raise ValueError(f"{name} is {number}; it must be positive")
        for name, (factor, other) in self.multiples.items():
            value, step = getattr(self, name), factor * getattr(self, other, 1)
            if value % step:
                rule = f" ({factor} x {other})" if other else ""
                raise ValueError(f"{name} is {value}; it must be a multiple of {step}{rule}")

    def decoder(self, tokens: int) -> dict[str, Any]:
        """Return the sizes of the language model for its config. ``tokens`` is the size of its vocabulary."""
        return {
            "vocab_size": tokens,
            "hidden_size": self.hidden,
            "intermediate_size": 3 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
        }

    def vision_encoder(self) -> dict[str, Any]:
        """Return the sizes of the vision encoder for the config of a Qwen model."""
        return {
            "hidden_size": self.vision_hidden,
            "depth": self.vision_layers,
            "num_heads": self.vision_heads,
            "intermediate_size": 2 * self.vision_hidden,
            "out_hidden_size": self.hidden,
        }

    def audio_encoder(self) -> dict[str, Any]:
        """Return the sizes of the audio encoder for the config of a Qwen-Omni model."""
        return {
            "d_model": self.audio_hidden,
            "encoder_layers": self.audio_layers,
            "encoder_attention_heads": self.audio_heads,
            "encoder_ffn_dim": 2 * self.audio_hidden,
            "output_dim": self.hidden,
        }

    def rope(self, theta: float = 1e6) -> dict[str, Any]:
        """Return the rotary positions of Qwen2.5-VL and Qwen2.5-Omni for these sizes.

        The rotary pairs of a head are divided among time, height and width by about 16 : 24 : 24, as in the
        published models.
        """
        half = self.hidden // self.heads // 2
        time = half // 4
        height = (half - time) // 2
        return {
            "rope_type": "default",
            "rope_theta": theta,
            "mrope_section": [time, height, half - time - height],
        }


def fresh(out: Path | str, part: str = "") -> Path:
    """Return a folder for a new checkpoint. The folder is made if it does not exist.

    Raises:
        FileExistsError: If the folder, or its sub-folder ``part``, already holds a checkpoint.
    """
    folder = Path(out)
    if (folder / part / "config.json").exists():
        raise FileExistsError(
            f"{folder} already holds a checkpoint; name an empty folder, or remove this one first"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While the context is open, random weights depend only on ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
