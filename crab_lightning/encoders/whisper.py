"""Whisper's encoder as an audio encoder (arXiv:2212.04356)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crab_lightning.encoders.base import AudioEncoder, TransformersEncoder

_STEP = 160  # samples of a spectrogram frame, 10 ms
_TAIL = 400  # a window of silence
_STRIDE = 2  # spectrogram frames of a feature


class WhisperAudio(TransformersEncoder, AudioEncoder):
    """The last layer of Whisper's encoder: 50 features a second.

    Whisper always reads 30 s. A shorter clip is followed by silence, as it was trained, and only the features
    of the clip itself are kept; a longer clip is read in parts of 30 s. So every clip costs at least 30 s.

    Args:
        pretrained: Folder or hub name of a Whisper model; its encoder is used.
    """

    families = ("whisper",)
    library_class = "WhisperModel"

    @property
    def tokens_per_s(self) -> float:
        """Features of a second."""
        return 50.0

    @property
    def ffn(self) -> int:
        """Width inside its feed-forward layers."""
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
        """Return the log-mel spectrogram ``(M, bins)``; its last step is silence, by which it is padded."""
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=self.config.num_mel_bins)
        whole = -(-len(audio) // _STEP) * _STEP
        padded = functional.pad(audio.float(), (0, whole + 3 * _TAIL - len(audio)))
        found = extractor(padded.numpy(), sampling_rate=16_000, padding="do_not_pad", truncation=False)
        bank = torch.as_tensor(found["input_features"][0])  # (bins, frames)
        own = whole // _STEP
        # frames from here on lie in silence alone; what overlaps the end belongs to the clip's surroundings
        return torch.cat((bank[:, : own + 2], bank[:, own + 3 : own + 4]), dim=1).T.contiguous()

    def tokens(self, steps: int) -> int:
        """Return the features of ``steps`` steps, of which three lie behind the clip."""
        return -(-(steps - 3) // _STRIDE)

    def features(self, tower: Any, sounds: Tensor, steps: Tensor) -> Tensor:
        """Return ``(G, N, E)``."""
        window = int(self.config.max_source_positions) * _STRIDE
        counts = steps.tolist()
        parts, owners = [], []
        for row, (bank, count) in enumerate(zip(sounds, counts, strict=True)):
            silence = bank[count - 1 : count]
            for start in range(0, count - 3, window):
                part = bank[start : min(start + window, count - 1)]
                parts.append(torch.cat((part, silence.expand(window - len(part), -1))).T)
                owners.append(row)
        states = tower(torch.stack(parts).to(tower.conv1.weight.dtype)).last_hidden_state
        rows = [states[[i for i, owner in enumerate(owners) if owner == row]] for row in range(len(counts))]
        longest = max(self.tokens(count) for count in counts)
        clips = [row.flatten(0, 1)[:longest] for row in rows]
        return torch.stack([functional.pad(clip, (0, 0, 0, longest - len(clip))) for clip in clips])
