"""Captions from Qwen3-Omni (arXiv:2509.17765) on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from crab_lightning.captioners.local import LocalCaptioner
from crab_lightning.structures import SAMPLE_RATE_HZ


class Qwen3OmniCaptioner(LocalCaptioner):
    """Asks Qwen3-Omni's thinker.

    ``Qwen/Qwen3-Omni-30B-A3B-Captioner`` was trained on sound alone: give it an empty prompt. The Instruct
    checkpoint takes any prompt.
    """

    kinds = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    family = "Qwen3-Omni"
    model_class: ClassVar[Any] = Qwen3OmniMoeThinkerForConditionalGeneration

    def inputs(self, prompt: str, sounds: list[Any]) -> Mapping[str, Tensor]:
        """Return the model's inputs for a prompt about each of some sounds.

        Each is prepared alone: the processor pads a group before it makes spectrograms, which changes the end
        of the shorter sounds.
        """
        single = [
            self.processor(text=[prompt], audio=[sound], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            for sound in sounds
        ]
        filler = self.processor.tokenizer.pad_token_id
        found = {}
        for name, value, side in (
            ("input_ids", filler, "left"),
            ("attention_mask", 0, "left"),
            ("input_features", 0.0, "right"),
            ("feature_attention_mask", 0, "right"),
        ):
            rows = [one[name][0].transpose(0, -1) for one in single]  # what differs in length comes first
            padded = pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
            found[name] = padded.transpose(1, -1) if padded.ndim == 3 else padded
        return found
