"""The video and the audio encoder of Meta's audio-visual Perception Encoder (PE-AV).

One published checkpoint holds both encoders; they were trained together and with text. Each class here reads
one of them. The layers of PE-AV that join both are not used: a conversation may have pictures without sound,
or sound without pictures, and the language model joins them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crab_lightning.encoders.base import AudioEncoder, VisualEncoder, normalised
from crab_lightning.encoders.transformers_encoder import TransformersEncoder
from crab_lightning.structures import SAMPLE_RATE_HZ

_RATE_HZ = 48_000


class PeVision(TransformersEncoder, VisualEncoder):
    """The video encoder of PE-AV: one feature for each frame, which depends on all frames of the clip.

    It needs the package ``timm`` (extra ``pe_av``), from which transformers takes the picture encoder.

    Args:
        pretrained: Folder or hub name of a PE-AV or PE video model.
    """

    families = ("pe_audio_video", "pe_video", "pe_video_encoder")
    part = ("audio_video_config", "video_config")
    library_class = "PeVideoEncoder"

    @property
    def _pictures(self) -> Any:
        try:
            from timm.models import get_pretrained_cfg
        except ImportError as err:
            raise ImportError(
                "model.visual_encoder PeVision needs the package timm: pip install 'crab_lightning[pe_av]'"
            ) from err
        return get_pretrained_cfg(self.config.vision_config.architecture)

    @property
    def side_px(self) -> int:
        """Side of the frames, in pixels."""
        own = (self.config.vision_config.model_args or {}).get("img_size")
        return int(own or self._pictures.input_size[-1])

    @property
    def tokens(self) -> int:
        """Number of features of a frame."""
        return 1

    def features(self, tower: Any, frames: Tensor, counts: Tensor) -> Tensor:
        """Return the features, ``(F, 1, E)``."""
        look = self._pictures
        pixels = normalised(frames, look.mean, look.std, tower.dtype)
        clips = pad_sequence(list(torch.split(pixels, counts.tolist())), batch_first=True)
        own = torch.arange(clips.shape[1], device=frames.device) < counts[:, None]
        states: Tensor = tower(clips, padding_mask_videos=own.long()).last_hidden_state
        return states[own][:, None]


class PeAudio(TransformersEncoder, AudioEncoder):
    """The audio encoder of PE-AV: 25 features a second.

    It was trained on sound of 48 kHz. Here clips are read at 16 kHz, so the sound has nothing above 8 kHz.

    Args:
        pretrained: Folder or hub name of a PE-AV or PE audio model.
    """

    families = ("pe_audio_video", "pe_audio", "pe_audio_encoder")
    part = ("audio_video_config", "audio_config")
    library_class = "PeAudioEncoder"

    @property
    def _hop(self) -> int:
        return int(self.config.dac_config.hop_length)

    @property
    def tokens_per_s(self) -> float:
        """Number of features of a second."""
        return _RATE_HZ / self._hop

    def prepare(self, audio: Tensor) -> Tensor:
        """Return samples at 48 kHz, ``(M, samples of a step)``; the mirrored end fills the last step."""
        import soxr

        wave = soxr.resample(audio.float().numpy(), SAMPLE_RATE_HZ, _RATE_HZ)
        if lacking := -len(wave) % self._hop:
            wave = np.pad(wave, (0, lacking), "reflect" if len(wave) > 1 else "edge")
        return torch.from_numpy(wave).view(-1, self._hop)

    def tokens(self, steps: int) -> int:
        """Return the number of features, which is the number of steps."""
        return steps

    def features(self, tower: Any, sounds: Tensor, steps: Tensor) -> Tensor:
        """Return the features, ``(G, N, E)``."""
        wave = sounds.flatten(1)
        own = torch.arange(wave.shape[1], device=wave.device) < steps[:, None] * self._hop
        states: Tensor = tower(wave[:, None].to(tower.dtype), padding_mask=own.long()).last_hidden_state
        return states
