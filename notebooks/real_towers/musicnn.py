"""musicnn, a tagger of music trained on MagnaTagATune, as an audio encoder (arXiv:1909.06654).

The weights lie in the package musicnn (ISC) as a TensorFlow checkpoint, read here without TensorFlow.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from crab_lightning.encoders import AudioEncoder
from real_towers.tensorflow_files import read_checkpoint

HOP, FFT, MELS = 256, 512, 96
FILTERS = mel_filter_bank(FFT // 2 + 1, MELS, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")


class Convolution(nn.Module):
    """Convolution over time and frequency, ReLU, batch norm."""

    def __init__(self, out: int, height: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, out, (height, width))
        self.norm = nn.BatchNorm2d(out, eps=1e-3)
        self.sides = ((height - 1) // 2, height // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(G, T, out)``, the largest over frequency, of ``(G, T, W)``."""
        x = F.pad(x[:, None], (0, 0, *self.sides))  # as TensorFlow pads: one more behind, if any
        y: Tensor = self.norm(F.relu(self.conv(x)))
        return y.amax(-1).transpose(1, 2)


class Musicnn(nn.Module):
    """Front end and middle of musicnn: what its classifier pools over time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, eps=1e-3)
        shapes = [(204, 7, 38), (204, 7, 67), (51, 128, 1), (51, 64, 1), (51, 32, 1)]
        shapes += [(64, 7, 561), (64, 7, 64), (64, 7, 64)]
        self.layers = nn.ModuleList(Convolution(*shape) for shape in shapes)

    def forward(self, mel: Tensor) -> Tensor:
        """Return ``(G, T, 753)`` of ``(G, T, 96)``."""
        x = self.norm(mel[:, None])[:, 0]
        front = torch.cat([layer(x) for layer in self.layers[:5]], dim=-1)
        first = self.layers[5](front)
        second = self.layers[6](first) + first
        third = self.layers[7](second) + second
        return torch.cat([front, first, second, third], dim=-1)


class MusicnnAudio(AudioEncoder):
    """62.5 features a second, 753 wide."""

    tokens_per_s = 62.5

    def __init__(self) -> None:
        super().__init__("musicnn")

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        return Musicnn()

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the network with the package's weights."""
        found = find_spec("musicnn")
        if found is None or found.origin is None:
            raise ModuleNotFoundError("pip install --no-deps musicnn")
        state = read_checkpoint(Path(found.origin).parent / "MTT_musicnn")
        model = Musicnn()
        norms = [model.norm] + [layer.norm for layer in model.layers]
        with torch.no_grad():
            for i, norm in enumerate(norms):
                name = "batch_normalization" + (f"_{i}" if i else "")
                for own, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
                                    ("running_var", "moving_variance")):  # fmt: skip
                    getattr(norm, own).copy_(torch.from_numpy(state[f"{name}/{theirs}"]))
            for i, layer in enumerate(model.layers):
                name = "conv2d" + (f"_{i}" if i else "")
                kernel = torch.from_numpy(state[f"{name}/kernel"]).permute(3, 2, 0, 1)
                layer.conv.weight.copy_(kernel)
                layer.conv.bias.copy_(torch.from_numpy(state[f"{name}/bias"]))
        return model.eval().to(dtype)

    def width(self, tower: nn.Module) -> int:
        """Return the width of the features."""
        return 753

    def prepare(self, audio: Tensor) -> Tensor:
        """Return the mel spectrogram ``(M, 96)``, compressed by a logarithm."""
        spectrum = torch.stft(audio, FFT, HOP, window=torch.hann_window(FFT), pad_mode="constant",
                              return_complex=True).abs() ** 2  # fmt: skip
        mel = spectrum.T @ torch.from_numpy(FILTERS.astype(np.float32))
        return torch.log10(10_000 * mel + 1)

    def tokens(self, steps: int) -> int:
        """Return the features of ``steps`` steps: as many."""
        return steps

    def features(self, tower: Any, sounds: Tensor, steps: Tensor) -> Tensor:
        """Return ``(G, N, E)``; each clip alone, since the layers see 2 s around a step."""
        own = [tower(clip[None, :count])[0] for clip, count in zip(sounds, steps.tolist(), strict=True)]
        return nn.utils.rnn.pad_sequence(own, batch_first=True)
