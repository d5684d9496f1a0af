"""Makes captions with Qwen2-Audio (arXiv:2407.10759) or Qwen3-Omni (arXiv:2509.17765) on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoProcessor,
    Qwen2AudioForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from crab_lightning.captioners.base import PROMPT, CaptionerError, ClipRefused, heard, tidy
from crab_lightning.compat import load_with_info
from crab_lightning.files import refuse_no_checkpoint
from crab_lightning.media import MediaError
from crab_lightning.structures import SAMPLE_RATE_HZ

_FAMILIES = "Qwen2-Audio or Qwen3-Omni"


class LocalCaptioner(ABC):
    """Asks a model for captions of groups of clips; it always chooses the likeliest tokens.

    Args:
        pretrained: Folder or hub name of the model.
        prompt: Text of the question; it may be empty, for models that read only sound.
        max_new_tokens: Largest number of tokens of a caption.
        batch_size: Number of clips that are captioned at the same time.
        device: ``auto`` uses a GPU if there is one.

    Raises:
        CaptionerError: If there is no checkpoint, it is another kind of model, or weights are missing.
    """

    parallel = 1
    settings: dict[str, Any]
    kinds: ClassVar[tuple[str, ...]]
    """Allowed values of ``model_type`` in the config of a checkpoint."""
    family: ClassVar[str]
    model_class: ClassVar[Any]

    def __init__(
        self,
        pretrained: str,
        prompt: str = PROMPT,
        max_new_tokens: int = 100,
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        self.prompt, self.max_new_tokens, self.group = prompt, max_new_tokens, batch_size
        self.settings = {"model": pretrained, "prompt": prompt, "max_new_tokens": max_new_tokens}
        if (kind := kind_of(pretrained)) not in self.kinds:
            raise CaptionerError(f"--captioner {pretrained} is a {kind}; it must be {self.family}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.processor: Any = AutoProcessor.from_pretrained(pretrained, trust_remote_code=False)
        model, info = load_with_info(self.model_class, pretrained, dtype=dtype)
        if lost := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
            raise CaptionerError(
                f"--captioner {pretrained}: {len(lost)} weights are missing or have another shape (first: "
                f"{lost[0]}). They would keep random values. Use a complete checkpoint"
            )
        self.model: Any = model.to(device).eval()

    @torch.no_grad()
    def describe(self, paths: Sequence[Path]) -> list[str | Exception]:
        """Return the caption of each clip, or the error because of which it has none."""
        found: list[str | Exception] = [ClipRefused("not asked")] * len(paths)
        places, sounds = [], []
        for place, path in enumerate(paths):
            try:
                sounds.append(heard(path).numpy())
                places.append(place)
            except MediaError as err:
                found[place] = err
        if sounds:
            for place, text in zip(places, self._answers(sounds), strict=True):
                try:
                    found[place] = tidy(text)
                except ClipRefused as err:
                    found[place] = err
        return found

    def _answers(self, sounds: list[Any]) -> list[str]:
        asking = [{"type": "text", "text": self.prompt}] if self.prompt else []
        talk = [{"role": "user", "content": [{"type": "audio", "audio": ""}, *asking]}]
        prompt = self.processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        inputs = {name: value.to(self.model.device) for name, value in self.inputs(prompt, sounds).items()}
        inputs["input_features"] = inputs["input_features"].to(self.model.dtype)
        asked = inputs["input_ids"].shape[1]
        said = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        texts: list[str] = self.processor.batch_decode(said[:, asked:], skip_special_tokens=True)
        return texts

    @abstractmethod
    def inputs(self, prompt: str, sounds: list[Any]) -> Mapping[str, Tensor]:
        """Return the model's inputs for the same prompt about each sound, ``(S,)`` at 16 kHz."""


def kind_of(pretrained: str) -> str:
    """Return the ``model_type`` of a checkpoint.

    Raises:
        CaptionerError: If there is no checkpoint.
    """
    try:
        refuse_no_checkpoint(pretrained, "--captioner")
        return str(AutoConfig.from_pretrained(pretrained, trust_remote_code=False).model_type)
    except (OSError, ValueError) as err:
        raise CaptionerError(
            f"--captioner {pretrained} is not a folder with a model: {str(err).splitlines()[0]}. Give a "
            f"folder with {_FAMILIES}, or the address of an endpoint (http://HOST:PORT/v1)"
        ) from err


class Qwen2AudioCaptioner(LocalCaptioner):
    """Asks Qwen2-Audio for captions, for example ``Qwen/Qwen2-Audio-7B-Instruct``."""

    kinds = ("qwen2_audio",)
    family = "Qwen2-Audio"
    model_class: ClassVar[Any] = Qwen2AudioForConditionalGeneration

    def inputs(self, prompt: str, sounds: list[Any]) -> Mapping[str, Tensor]:
        """Return the model's inputs for the same prompt about each sound."""
        self.processor.tokenizer.padding_side = "left"
        found: Mapping[str, Tensor] = self.processor(
            text=[prompt] * len(sounds),
            audio=sounds,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            padding=True,
        )
        return found


class Qwen3OmniCaptioner(LocalCaptioner):
    """Asks the thinker of Qwen3-Omni for captions.

    ``Qwen/Qwen3-Omni-30B-A3B-Captioner`` was trained on sound without text, so give it an empty prompt. The
    Instruct checkpoint takes any prompt.
    """

    kinds = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    family = "Qwen3-Omni"
    model_class: ClassVar[Any] = Qwen3OmniMoeThinkerForConditionalGeneration

    def inputs(self, prompt: str, sounds: list[Any]) -> Mapping[str, Tensor]:
        """Return the model's inputs for the same prompt about each sound.

        Each sound is prepared separately, because the processor pads a group before it computes spectrograms,
        which changes the end of the shorter sounds.
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
            rows = [one[name][0].transpose(0, -1) for one in single]  # the dimension to pad must be the first
            padded = pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
            found[name] = padded.transpose(1, -1) if padded.ndim == 3 else padded
        return found


def local_captioner(pretrained: str, *args: Any) -> LocalCaptioner:
    """Return the captioner for a checkpoint.

    Args:
        pretrained: Folder or hub name.
        args: The other arguments of :class:`LocalCaptioner`.

    Raises:
        CaptionerError: If there is no checkpoint, no captioner reads its family, or weights are missing.
    """
    kind = kind_of(pretrained)
    for reader in (Qwen2AudioCaptioner, Qwen3OmniCaptioner):
        if kind in reader.kinds:
            return reader(pretrained, *args)
    raise CaptionerError(f"--captioner {pretrained} is a {kind}; it must be {_FAMILIES}")
