"""Whisper's encoder as an audio encoder (arXiv:2212.04356)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from crab_lightning.encoders.base import AudioEncoder
from crab_lightning.encoders.transformers_encoder import TransformersEncoder

_STEP = 160  # samples of a spectrogram frame, 10 ms
_TAIL = 400  # a window of silence
_STRIDE = 2  # spectrogram frames of a feature


class WhisperAudio(TransformersEncoder, AudioEncoder):
    """The last layer of Whisper's encoder: 50 features a second.

    Whisper always reads 30 s. A shorter clip is padded with silence, as in Whisper's training, and only the
    features of the clip itself are kept. A longer clip is read in parts of 30 s. So even a short clip needs
    the computation of 30 s.

    Args:
        pretrained: Folder or hub name of a Whisper model; only its encoder is used.
    """

    families = ("whisper",)
    library_class = "WhisperModel"

    @property
    def tokens_per_s(self) -> float:
        """Number of features of a second."""
        return 50.0

    @property
    def ffn(self) -> int:
        """Width inside the feed-forward layers."""
        return int(self.config.encoder_ffn_dim)

    def build(self) -> nn.Module:
        """Return the encoder with random weights."""
        whole: Any = super().build()
        encoder: nn.Module = whole.encoder
        return encoder

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the encoder with the checkpoint's weights."""
        whole: Any = super().load(dtype)
        encoder: nn.Module = whole.encoder
        return encoder

    def prepare(self, audio: Tensor) -> Tensor:
        """Return the log-mel spectrogram ``(M, bins)``; its last step is silence, used as padding."""
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=self.config.num_mel_bins)
        whole = -(-len(audio) // _STEP) * _STEP
        padded = functional.pad(audio.float(), (0, whole + 3 * _TAIL - len(audio)))
        found = extractor(padded.numpy(), sampling_rate=16_000, padding="do_not_pad", truncation=False)
        bank = torch.as_tensor(found["input_features"][0])  # (bins, frames)
        own = whole // _STEP
        # Two frames after the clip still overlap its end; frame own + 3 contains only silence.
        return torch.cat((bank[:, : own + 2], bank[:, own + 3 : own + 4]), dim=1).T.contiguous()

    def tokens(self, steps: int) -> int:
        """Return the number of features of ``steps`` steps; the last three steps are after the clip."""
        return -(-(steps - 3) // _STRIDE)

    def features(self, tower: Any, sounds: Tensor, steps: Tensor) -> Tensor:
        """Return the features, ``(G, N, E)``."""
        window = int(self.config.max_source_positions) * _STRIDE
        counts = steps.tolist()
        starts = [range(0, count - 3, window) for count in counts]
        parts = []
        for bank, count, own in zip(sounds, counts, starts, strict=True):
            silence = bank[count - 1 : count]
            for start in own:
                part = bank[start : min(start + window, count - 1)]
                parts.append(torch.cat((part, silence.expand(window - len(part), -1))).T)
        states = tower(torch.stack(parts).to(tower.conv1.weight.dtype)).last_hidden_state
        longest = max(self.tokens(count) for count in counts)
        clips = torch.split(states, [len(own) for own in starts])
        return pad_sequence([clip.flatten(0, 1)[:longest] for clip in clips], batch_first=True)
