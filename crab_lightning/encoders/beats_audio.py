"""BEATs as an audio encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crab_lightning.encoders.base import AudioEncoder
from crab_lightning.encoders.beats import SHORTEST_SAMPLES, Beats, BeatsConfig, beats_fbank, beats_tokens
from crab_lightning.encoders.beats_files import CONFIG_FILE, load_beats


class BeatsAudio(AudioEncoder):
    """The last layer of BEATs: about 50 features a second, 8 frequency bands in each 160 ms.

    In LLM+V+A each second is heard alone, as in the paper.

    Args:
        pretrained: Published BEATs checkpoint (``BEATs_iter3_plus_AS2M.pt``), or a folder in safetensors.
    """

    alone_s: ClassVar[int | None] = 1
    shortest_samples: ClassVar[int] = SHORTEST_SAMPLES

    @property
    def tokens_per_s(self) -> float:
        """Features of a second in a long clip; 48 of one that is heard alone."""
        return 50.0

    @property
    def config(self) -> BeatsConfig:
        """Sizes of a folder; those of the published encoders for a ``.pt`` file, which is not opened."""
        file = Path(self.pretrained) / CONFIG_FILE
        return (
            BeatsConfig.from_cfg(json.loads(file.read_text(encoding="utf-8")))
            if file.is_file()
            else BeatsConfig()
        )

    @property
    def ffn(self) -> int:
        """Width inside its feed-forward layers."""
        return self.config.encoder_ffn_embed_dim

    def build(self) -> nn.Module:
        """Return BEATs with random weights."""
        return Beats(self.config)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return BEATs with the checkpoint's weights."""
        return load_beats(self.pretrained).to(dtype)

    def width(self, tower: Any) -> int:
        """Return the width of the features."""
        return int(tower.config.encoder_embed_dim)

    def prepare(self, audio: Tensor) -> Tensor:
        """Return the filter bank ``(M, 128)``."""
        return beats_fbank(audio)

    def tokens(self, steps: int) -> int:
        """Return the features of ``steps`` frames of the filter bank."""
        return beats_tokens(steps)

    def features(self, tower: Any, sounds: Tensor, steps: Tensor) -> Tensor:
        """Return ``(G, N, E)``."""
        states: Tensor = tower(sounds, steps)[0]
        return states
