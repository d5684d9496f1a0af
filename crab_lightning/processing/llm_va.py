"""Conversation and media to the inputs of a text model with a vision and an audio encoder (LLM+V+A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from crab_lightning.encoders import AudioEncoder, BeatsAudio, ClipVision, VisualEncoder
from crab_lightning.processing.base import IGNORED_LABEL, check_length, labels_present, pad_rows
from crab_lightning.processing.chat import ChatWriter, expanded
from crab_lightning.processing.families import check_family
from crab_lightning.processing.geometry import GEOMETRIES, Geometry, GeometryError
from crab_lightning.structures import AUDIO, TEXT, VISUAL, Batch, Encoded, Example, Media


class LlmVaProcessor:
    """Writes the conversation in the language model's own chat template and keeps places free for media.

    Each frame or image takes ``tokens`` places and each second of sound as many, where the conversation has
    them. There is no system message unless one is given, since the one of the native paradigm names another
    model.

    Args:
        pretrained: Folder or hub name of the language model; only its tokenizer is read.
        vision: The vision encoder, or folder or hub name of a CLIP model; only its config is read.
        tokens: Tokens of a frame, and of a second of sound: the queries of the connectors.
        geometry: ``released`` or ``plain``; here it only says how the data room cuts and joins clips.
        max_length: Longest sample in tokens; a longer one is an error, never cut. No limit when left out.
        system: System message.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        end_token: Token that ends an answer; the tokenizer's end token when left out.
        audio: The audio encoder; BEATs when left out.
    """

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
        if geometry not in GEOMETRIES:
            raise ValueError(f"geometry is {geometry!r}; allowed: {', '.join(GEOMETRIES)}")
        self.geometry: Geometry = geometry
        self.max_length, self.tokens = max_length, tokens
        check_family(str(pretrained), "LlmVaModule")
        self.chat = ChatWriter(str(pretrained), system, chat_template, end_token)
        seen = vision if isinstance(vision, VisualEncoder) else ClipVision(str(vision))
        self.image_px = seen.side_px
        self.audio = audio or BeatsAudio("")  # sound is prepared alike for every BEATs

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return self.chat.end_token

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs.

        Returns:
            ``input_ids (T,)``, ``media_kind (T,)``, and for the media that it has ``frames`` (uint8 ``(F, 3,
            H, W)``, videos and images in the conversation's order), ``frame_counts`` (the frames of each of
            them), ``sounds`` (prepared pieces, ``(pieces, M, C)``) and ``sound_steps (pieces,)``. Labels
            ``(T,)`` hold the answer and the end token.

        Raises:
            GeometryError: If frames are not of the vision encoder's size.
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
        labels = None
        if example.target is not None:
            labels = row.masked_fill(~expanded(written.learnt, repeats), IGNORED_LABEL)
        return Encoded(inputs, labels, example.sample)

    def audio_tokens(self, steps: int) -> int:
        """Return the places that a prepared piece of sound of so many steps takes."""
        return self.audio.groups(steps) * self.tokens

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
        for key in ("frames", "frame_counts"):
            if parts := [row[key] for row in rows if key in row]:
                inputs[key] = torch.cat(parts)
        inputs |= joined_sounds(rows)
        flags = list(repeated) if repeated is not None else [False] * len(items)
        return Batch(inputs, labels, [item.sample for item in items], flags)

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens that training has for an answer, end token included."""
        return self.chat.answer_tokens(text)

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, special tokens removed, outer whitespace stripped."""
        return self.chat.decode(token_ids)


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


def padded_sounds(sounds: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return prepared pieces ``(M, C)`` as one tensor padded behind, with the steps of each."""
    if not sounds:
        return {}
    return {
        "sounds": pad_rows([piece.T for piece in sounds], 0.0, left=False).transpose(1, 2),
        "sound_steps": torch.tensor([len(piece) for piece in sounds]),
    }


def joined_sounds(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the prepared pieces of all samples as one padded tensor, with the steps of each."""
    found = [row for row in rows if "sounds" in row]
    return padded_sounds(
        [
            piece[:steps]
            for row in found
            for piece, steps in zip(row["sounds"], row["sound_steps"].tolist(), strict=True)
        ]
    )
