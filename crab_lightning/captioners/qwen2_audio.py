"""Captions from Qwen2-Audio (arXiv:2407.10759) on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration

from crab_lightning.captioners.local import LocalCaptioner
from crab_lightning.structures import SAMPLE_RATE_HZ


class Qwen2AudioCaptioner(LocalCaptioner):
    """Asks Qwen2-Audio, as ``Qwen/Qwen2-Audio-7B-Instruct``."""

    kinds = ("qwen2_audio",)
    family = "Qwen2-Audio"
    model_class: ClassVar[Any] = Qwen2AudioForConditionalGeneration

    def inputs(self, prompt: str, sounds: list[Any]) -> Mapping[str, Tensor]:
        """Return the model's inputs for a prompt about each of some sounds."""
        self.processor.tokenizer.padding_side = "left"
        found: Mapping[str, Tensor] = self.processor(
            text=[prompt] * len(sounds),
            audio=sounds,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            padding=True,
        )
        return found
