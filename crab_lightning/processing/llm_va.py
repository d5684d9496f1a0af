"""Conversation and media to the inputs of a text model with a vision and an audio encoder (LLM+V+A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from crab_lightning.encoders import beats_fbank
from crab_lightning.encoders.fbank import SHORTEST_SAMPLES
from crab_lightning.processing.base import IGNORED_LABEL, check_length, labels_present, pad_rows
from crab_lightning.processing.chat import ChatWriter, expanded
from crab_lightning.processing.families import check_family
from crab_lightning.processing.geometry import GEOMETRIES, Geometry, GeometryError
from crab_lightning.structures import AUDIO, SAMPLE_RATE_HZ, TEXT, VISUAL, Batch, Encoded, Example, Media

SEGMENT_SAMPLES = SAMPLE_RATE_HZ
"""The audio encoder hears one second at a time."""


class LlmVaProcessor:
    """Writes the conversation in the language model's own chat template and keeps places free for media.

    Each frame or image takes ``tokens`` places and each second of sound as many, where the conversation has
    them. There is no system message unless one is given, since the one of the native paradigm names another
    model.

    Args:
        pretrained: Folder or hub name of the language model; only its tokenizer is read.
        vision: Folder or hub name of the CLIP model; only its config is read.
        tokens: Tokens of a frame, and of a second of sound: the queries of the connectors.
        geometry: ``released`` or ``plain``; here it only says how the data room cuts and joins clips.
        max_length: Longest sample in tokens; a longer one is an error, never cut. No limit when left out.
        system: System message.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        end_token: Token that ends an answer; the tokenizer's end token when left out.
    """

    def __init__(
        self,
        pretrained: str | Path,
        vision: str | Path,
        tokens: int = 32,
        geometry: Geometry = "released",
        max_length: int | None = None,
        system: str | None = None,
        chat_template: str | Path | None = None,
        end_token: str | None = None,
    ) -> None:
        if geometry not in GEOMETRIES:
            raise ValueError(f"geometry is {geometry!r}; allowed: {', '.join(GEOMETRIES)}")
        self.geometry: Geometry = geometry
        self.max_length, self.tokens = max_length, tokens
        check_family(str(pretrained), "LlmVaModule")
        self.chat = ChatWriter(str(pretrained), system, chat_template, end_token)
        config = AutoConfig.from_pretrained(str(vision), trust_remote_code=False)
        self.image_px = int(getattr(config, "vision_config", config).image_size)

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return self.chat.end_token

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs.

        Returns:
            ``input_ids (T,)``, ``media_kind (T,)``, and for the media that it has ``frames`` (uint8 ``(F, 3,
            H, W)``, videos and images in the conversation's order), ``fbank`` (segments of a second,
            ``(segments, M, 128)``) and ``fbank_frames (segments,)``. Labels ``(T,)`` hold the
            answer and the end token.

        Raises:
            GeometryError: If frames are not of the vision encoder's size.
            ValueError: If the conversation cannot be written (see ``ChatWriter.write``), or is longer than
                ``max_length``.
        """
        written = self.chat.write(example)
        videos, images, audios = iter(example.videos), iter(example.images), iter(example.audios)
        frames: list[Tensor] = []
        segments: list[Tensor] = []
        ids, kinds, repeats = list(written.ids), [TEXT] * len(written.ids), [1] * len(written.ids)
        for place, media in enumerate(written.media):
            if media is None:
                continue
            ids[place] = self.chat.pad_token
            if media is Media.AUDIO:
                found = audio_segments(next(audios))
                segments += found
                kinds[place], repeats[place] = AUDIO, len(found) * self.tokens
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
        if segments:
            inputs["fbank"] = pad_rows([s.T for s in segments], 0.0, left=False).transpose(1, 2)
            inputs["fbank_frames"] = torch.tensor([len(s) for s in segments])
        labels = None
        if example.target is not None:
            labels = row.masked_fill(~expanded(written.learnt, repeats), IGNORED_LABEL)
        return Encoded(inputs, labels, example.sample)

    def _check_size(self, example: Example, clip: Tensor) -> None:
        if tuple(clip.shape[-2:]) != (self.image_px, self.image_px):
            height, width = clip.shape[-2:]
            raise GeometryError(
                f"{example.sample.id}: frames of {width} x {height} px; the vision encoder reads "
                f"{self.image_px} x {self.image_px}. Set the dataset's size_px to {self.image_px}."
            )

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a padded batch: to the right with labels, to the left for prompts.

        Raises:
            ValueError: If only some items carry labels.
        """
        inputs, labels = padded_text(items, self.chat.pad_token)
        rows = [item.inputs for item in items]
        if frames := [row["frames"] for row in rows if "frames" in row]:
            inputs["frames"] = torch.cat(frames)
        inputs |= joined_fbank(rows)
        flags = list(repeated) if repeated is not None else [False] * len(items)
        return Batch(inputs, labels, [item.sample for item in items], flags)

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens that training has for an answer, end token included."""
        return self.chat.answer_tokens(text)

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, special tokens removed, outer whitespace stripped."""
        return self.chat.decode(token_ids)


def audio_segments(audio: Tensor) -> list[Tensor]:
    """Return the filter banks of each second of a clip.

    A rest too short for one audio token is not heard, as at the end of any clip; a clip that is no more than
    that is filled up with silence.

    Args:
        audio: ``(S,)``, 16 kHz.

    Returns:
        ``(M, 128)`` each, the last of its own length.

    Raises:
        ValueError: If the clip is empty.
    """
    if not len(audio):
        raise ValueError("the audio clip is empty; it needs at least one sample")
    parts = list(torch.split(audio, SEGMENT_SAMPLES))
    if len(parts) > 1 and len(parts[-1]) < SHORTEST_SAMPLES:
        parts.pop()
    return [whole_fbank(part) for part in parts]


def whole_fbank(audio: Tensor) -> Tensor:
    """Return a clip's filter bank ``(M, 128)``, filled up with silence to the length of one audio token."""
    if len(audio) < SHORTEST_SAMPLES:
        audio = torch.nn.functional.pad(audio, (0, SHORTEST_SAMPLES - len(audio)))
    return beats_fbank(audio)


def padded_text(items: Sequence[Encoded], pad_token: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """Pad ids, media kinds and labels: to the right with labels, to the left for prompts.

    Returns:
        ``input_ids``, ``media_kind`` and ``attention_mask``, each ``(B, T)``, and the labels.
    """
    learning = labels_present(items)
    ids = [item.inputs["input_ids"] for item in items]
    inputs = {
        "input_ids": pad_rows(ids, pad_token, left=not learning),
        "media_kind": pad_rows([item.inputs["media_kind"] for item in items], TEXT, left=not learning),
        "attention_mask": pad_rows([torch.ones_like(i) for i in ids], 0, left=not learning),
    }
    if not learning:
        return inputs, None
    rows = [item.labels for item in items if item.labels is not None]
    return inputs, pad_rows(rows, IGNORED_LABEL, left=False)


def joined_fbank(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the filter banks of all samples as one padded tensor, with the frames of each."""
    banks = [bank.T for row in rows if "fbank" in row for bank in row["fbank"]]
    if not banks:
        return {}
    return {
        "fbank": pad_rows(banks, 0.0, left=False).transpose(1, 2),
        "fbank_frames": torch.cat([row["fbank_frames"] for row in rows if "fbank_frames" in row]),
    }
