"""The processor of LLM+V+A, a text model with a vision encoder and an audio encoder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from crab_lightning.encoders import AudioEncoder, ClipVision, VisualEncoder
from crab_lightning.processing.base import check_length
from crab_lightning.processing.chat import expanded
from crab_lightning.processing.composite import CompositeProcessor, padded_sounds
from crab_lightning.processing.geometry import Geometry, GeometryError
from crab_lightning.structures import AUDIO, TEXT, VISUAL, Encoded, Example, Media


class LlmVaProcessor(CompositeProcessor):
    """Writes the conversation with the chat template of the language model, with free places for media.

    Each frame or image has ``tokens`` places, and each group of audio features has as many. There is no
    system message unless one is given, since that of the native architecture names another model.

    Args:
        pretrained: Folder or hub name of the language model, of which only tokenizer and config are read.
        vision: The vision encoder, or the folder or hub name of a CLIP model, of which only the config is
            read.
        tokens: Number of tokens for each frame and each group of audio features (the queries of the
            connectors).
        geometry: ``released`` or ``plain``, with which the data module must prepare the media.
        max_length: Longest sample in tokens. A longer sample is an error and is not cut. By default, there is
            no limit.
        system: System message.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        end_token: Token that ends an answer. By default, the end token of the tokenizer.
        audio: The audio encoder. By default, BEATs.

    Raises:
        ValueError: If the checkpoint is of another architecture, or there is no chat template or end token.
    """

    reader: ClassVar[str] = "LlmVaModule"
    reads_text_models: ClassVar[bool] = True
    seen: ClassVar[tuple[str, ...]] = ("frames", "frame_counts")

    def __init__(
        self,
        pretrained: str | Path,
        vision: VisualEncoder | str | Path,
        tokens: int = 32,
        geometry: Geometry = "released",
        max_length: int | None = None,
        system: str | None = None,
        chat_template: str | Path | None = None,
        end_token: str | None = None,
        audio: AudioEncoder | None = None,
    ) -> None:
        super().__init__(pretrained, geometry, max_length, system, chat_template, end_token, audio)
        self.tokens = tokens
        seen = vision if isinstance(vision, VisualEncoder) else ClipVision(str(vision))
        self.image_px = seen.side_px

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs.

        Returns:
            ``input_ids (T,)``, ``media_kind (T,)``, and for its media ``frames`` (uint8 ``(F, 3, H, W)``,
            videos and images in the order of the conversation), ``frame_counts`` (number of frames of each
            video or image), ``sounds`` (prepared pieces, ``(pieces, M, C)``) and ``sound_steps (pieces,)``.
            The labels ``(T,)`` are the learnt answers with their end tokens.

        Raises:
            GeometryError: If frames do not have the size of the vision encoder.
            ValueError: If the conversation cannot be written (see ``ChatWriter.write``), or is longer than
                ``max_length``.
        """
        written = self.chat.write(example)
        videos, images, audios = iter(example.videos), iter(example.images), iter(example.audios)
        frames: list[Tensor] = []
        sounds: list[Tensor] = []
        ids, kinds, repeats = list(written.ids), [TEXT] * len(written.ids), [1] * len(written.ids)
        for place, media in enumerate(written.media):
            if media is None:
                continue
            ids[place] = self.chat.pad_token
            if media is Media.AUDIO:
                found = self.audio.pieces(next(audios))
                sounds += found
                kinds[place] = AUDIO
                repeats[place] = sum(self.audio_tokens(len(piece)) for piece in found)
            else:
                clip = next(videos) if media is Media.VIDEO else next(images)[None]
                self._check_size(example, clip)
                frames.append(clip)
                kinds[place], repeats[place] = VISUAL, len(clip) * self.tokens
        row = expanded(ids, repeats)
        check_length(example, len(row), self.max_length)
        inputs = {"input_ids": row, "media_kind": expanded(kinds, repeats)}
        if frames:
            inputs["frames"] = torch.cat(frames)
            inputs["frame_counts"] = torch.tensor([len(clip) for clip in frames])
        inputs |= padded_sounds(sounds)
        return self.encoded(example, inputs, written.learnt, repeats)

    def audio_tokens(self, steps: int) -> int:
        """Return the number of tokens for a prepared piece of sound with this number of steps."""
        return self.audio.groups(steps) * self.tokens

    def _check_size(self, example: Example, clip: Tensor) -> None:
        if tuple(clip.shape[-2:]) != (self.image_px, self.image_px):
            height, width = clip.shape[-2:]
            raise GeometryError(
                f"{example.sample.id}: frames of {width} x {height} px; the vision encoder reads "
                f"{self.image_px} x {self.image_px}. Set the dataset's size_px to {self.image_px}."
            )
