"""Captions from Qwen2-Audio (arXiv:2407.10759) on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, Qwen2AudioForConditionalGeneration

from crab_lightning.captioners.base import PROMPT, CaptionerError, ClipRefused, heard, tidy
from crab_lightning.compat import load_with_info
from crab_lightning.media import MediaError
from crab_lightning.structures import SAMPLE_RATE_HZ


class Qwen2AudioCaptioner:
    """Asks Qwen2-Audio about groups of clips; its answers are the likeliest, so that they can be repeated.

    Args:
        pretrained: Folder or hub name, as ``Qwen/Qwen2-Audio-7B-Instruct``.
        prompt: What is asked.
        max_new_tokens: Longest caption.
        batch_size: Clips asked about at once.
        device: ``auto`` uses a GPU if there is one.

    Raises:
        CaptionerError: If it is another kind of model, or weights are missing.
    """

    parallel = 1

    def __init__(
        self,
        pretrained: str,
        prompt: str = PROMPT,
        max_new_tokens: int = 100,
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        self.pretrained, self.prompt, self.max_new_tokens = pretrained, prompt, max_new_tokens
        self.group = batch_size
        try:
            kind = AutoConfig.from_pretrained(pretrained).model_type
        except (OSError, ValueError) as err:
            raise CaptionerError(
                f"--captioner {pretrained} is no folder with a model: {str(err).splitlines()[0]}. Name a "
                "folder of Qwen2-Audio, or the address of an endpoint (http://HOST:PORT/v1)"
            ) from err
        if kind != "qwen2_audio":
            raise CaptionerError(f"--captioner {pretrained} is a {kind}; Qwen2-Audio is expected")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.processor: Any = AutoProcessor.from_pretrained(pretrained, trust_remote_code=False)
        model, info = load_with_info(Qwen2AudioForConditionalGeneration, pretrained, dtype=dtype)
        if lost := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
            raise CaptionerError(
                f"--captioner {pretrained}: {len(lost)} weights are missing or of another shape (first: "
                f"{lost[0]}); they would keep random values"
            )
        self.model: Any = model.to(device).eval()

    def settings(self) -> dict[str, str | int | float]:
        """Return model, prompt and length."""
        return {"model": self.pretrained, "prompt": self.prompt, "max_new_tokens": self.max_new_tokens}

    @torch.no_grad()
    def describe(self, paths: Sequence[Path]) -> list[str | Exception]:
        """Return the caption of each clip, or why it has none."""
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
        talk = [
            {
                "role": "user",
                "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": self.prompt}],
            }
        ]
        prompt = self.processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        self.processor.tokenizer.padding_side = "left"
        inputs = self.processor(
            text=[prompt] * len(sounds),
            audio=sounds,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            padding=True,
        ).to(self.model.device)
        inputs["input_features"] = inputs["input_features"].to(self.model.dtype)
        asked = inputs["input_ids"].shape[1]
        said = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        texts: list[str] = self.processor.batch_decode(said[:, asked:], skip_special_tokens=True)
        return texts
