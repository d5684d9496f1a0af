"""Let a model on this machine write texts: Qwen2.5-Omni or Qwen3-Omni, loaded as for training."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import wave
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from crab_lightning.builder.reasoning.prompts import Message
from crab_lightning.builder.reasoning.writers import RowRefused, WriterError, writer_settings
from crab_lightning.chat_endpoint import Reply
from crab_lightning.files import refuse_no_checkpoint
from crab_lightning.processing.base import check_reserved
from crab_lightning.processing.families import FAMILIES

if TYPE_CHECKING:
    from crab_lightning.models import OmniModule

READERS = ("OmniModule", "Qwen3OmniModule")
_INPUTS = (
    "input_ids", "attention_mask", "pixel_values", "image_grid_thw", "input_features",
    "feature_attention_mask",
)  # fmt: skip


class LocalWriter:
    """Asks an omni model on this machine, one row after the other.

    The weights are loaded with the first row, so that a call that has nothing to ask does not load them.

    Args:
        pretrained: Folder or hub name of a Qwen2.5-Omni or Qwen3-Omni checkpoint.
        max_new_tokens: Largest number of tokens of a text.
        temperature: Sampling temperature; 0 always chooses the most probable token. Above 0, the seed is
            computed from the row, so that the same call gives the same text.
        device: Name of the device; ``auto`` uses a GPU if there is one.

    Raises:
        ValueError: If the model cannot be found or is of another kind, or if a number is out of its range.
    """

    parallel = 1

    def __init__(
        self, pretrained: str, max_new_tokens: int = 512, temperature: float = 0.0, device: str = "auto"
    ) -> None:
        from transformers import PreTrainedConfig

        if max_new_tokens < 1 or temperature < 0:
            raise ValueError("--max-new-tokens must be at least 1, and --temperature at least 0")
        try:
            refuse_no_checkpoint(pretrained, "--model")
            kind = PreTrainedConfig.get_config_dict(pretrained)[0].get("model_type")
        except (OSError, ValueError) as err:
            raise ValueError(
                f"--model {pretrained} is neither a folder with a model nor a name on the hub: "
                f"{str(err).splitlines()[0]}"
            ) from err
        self.reader = FAMILIES.get(str(kind), "")
        if self.reader not in READERS:
            known = ", ".join(name for name, reader in FAMILIES.items() if reader in READERS)
            raise ValueError(
                f"--model {pretrained} is a {kind}; --local loads {known}. Serve other models at an address, "
                "for example with vLLM, and give it with --endpoint"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pretrained, self.device = pretrained, device
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.settings = writer_settings(pretrained, max_new_tokens, temperature)

    @cached_property
    def module(self) -> OmniModule:
        """The model on its device, in evaluation mode."""
        from crab_lightning import models

        dtype = "float32" if self.device == "cpu" else "bfloat16"
        module: OmniModule = getattr(models, self.reader)(self.pretrained, dtype=dtype)
        module.configure_model()
        module.to(self.device).eval()
        return module

    @torch.no_grad()
    def write(self, messages: Sequence[Message]) -> Reply:
        """Return the text that the model writes.

        Raises:
            RowRefused: If the row contains a token that the model reads as markup, or if a part of the row
                cannot be read.
            WriterError: If the memory of the GPU is too small.
        """
        try:
            inputs = self._inputs(messages)
        except ValueError as err:
            raise RowRefused(str(err)) from err
        processor: Any = self.module.processor
        asked = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            options["temperature"] = self.temperature
            request = json.dumps([self.settings, list(messages)], sort_keys=True)
            torch.manual_seed(int(hashlib.sha256(request.encode()).hexdigest()[:15], 16))
        model: Any = self.module.model
        try:
            said = model.generate(
                **inputs, **options, max_new_tokens=self.max_new_tokens,
                eos_token_id=processor.end_token, pad_token_id=processor.end_token,
            )[0, asked:]  # fmt: skip
        except torch.cuda.OutOfMemoryError as err:
            raise WriterError(
                f"{self.pretrained}: the memory of {self.device} is too small for {asked:,} tokens. Give "
                "fewer or smaller frames (--frames, --size-px), or use a larger device"
            ) from err
        ended = bool((said == processor.end_token).any())
        return Reply(processor.decode(said), not ended, asked, len(said))

    def _inputs(self, messages: Sequence[Message]) -> Any:
        """Return a conversation as inputs of the model, in the form of the model's chat template."""
        processor: Any = self.module.processor
        stock, marks = processor.stock, processor.tokenizer
        pictures: list[Image.Image] = []
        sounds: list[NDArray[np.float32]] = []
        text = ""
        for message in messages:
            content = message["content"]
            parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
            text += f"<|im_start|>{message['role']}\n"
            for part in parts:
                if part["type"] == "text":
                    check_reserved("this row", [part["text"]], marks.all_special_tokens)
                    text += part["text"]
                elif part["type"] == "image_url":
                    pictures.append(_picture(part["image_url"]["url"]))
                    text += f"{marks.vision_bos_token}{marks.image_token}{marks.vision_eos_token}"
                else:
                    sounds.append(_sound(part["input_audio"]["data"]))
                    text += f"{marks.audio_bos_token}{marks.audio_token}{marks.audio_eos_token}"
            text += "<|im_end|>\n"
        made = stock(
            text=[f"{text}<|im_start|>assistant\n"],
            images=pictures or None,
            audio=sounds or None,
            return_tensors="pt",
        ).to(self.device)
        kind: Any = self.module.model.dtype
        # The processor also returns the number of tokens of each sound, which is not an input of the model.
        return {
            name: made[name].to(kind) if made[name].is_floating_point() else made[name]
            for name in _INPUTS
            if name in made
        }


def _picture(url: str) -> Image.Image:
    _, _, data = url.partition(";base64,")
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def _sound(data: str) -> NDArray[np.float32]:
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return (frames / 32768).astype(np.float32)
