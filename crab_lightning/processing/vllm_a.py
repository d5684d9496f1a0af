"""Conversation and media to the inputs of Qwen2.5-VL with an added audio branch (V-LLM+A)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from crab_lightning.encoders import AudioEncoder, BeatsAudio
from crab_lightning.processing.base import IGNORED_LABEL, check_length, pad_rows
from crab_lightning.processing.chat import ChatWriter, expanded
from crab_lightning.processing.families import check_family
from crab_lightning.processing.geometry import (
    GEOMETRIES,
    MERGE,
    PATCH_PX,
    TEMPORAL_PATCH,
    Geometry,
    GeometryError,
    check_sizes,
    seconds_per_grid,
    visual_tokens,
)
from crab_lightning.processing.llm_va import joined_sounds, padded_sounds, padded_text
from crab_lightning.processing.patches import patchify
from crab_lightning.processing.positions import PAD_POSITION, Block, rope_positions
from crab_lightning.structures import AUDIO, TEXT, Batch, Encoded, Example, Media

_VISION = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


class VllmAProcessor:
    """Writes what Qwen2.5-VL sees, and keeps places free for the tokens of the audio branch.

    A video or image stands between the model's own vision markers; sound has places without markers, since
    the vocabulary has none and frozen embeddings would never learn new ones. Positions are those that the
    model itself computes in transformers 5 (``get_rope_index``), sound counting like text: a block of
    pictures lies along time, height and width, and what follows goes on behind the height or width of one
    frame. (In 4.x it went on behind the last frame's time.)

    Args:
        pretrained: Folder or hub name of a Qwen2.5-VL checkpoint; only its tokenizer and config are read.
        connector_tokens: Language-model tokens for a number of features of the audio encoder.
        geometry: ``released`` shows 224 px and 2.0 s per pair of frames; ``plain`` the clip's own time scale.
        max_length: Longest sample in tokens; a longer one is an error, never cut. No limit when left out.
        system: System message; the chat template's own when left out.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        audio: The audio encoder; BEATs when left out.

    Raises:
        GeometryError: If the checkpoint works on other patches than the published one.
    """

    def __init__(
        self,
        pretrained: str | Path,
        connector_tokens: Callable[[int], int],
        geometry: Geometry = "released",
        max_length: int | None = None,
        system: str | None = None,
        chat_template: str | Path | None = None,
        audio: AudioEncoder | None = None,
    ) -> None:
        if geometry not in GEOMETRIES:
            raise ValueError(f"geometry is {geometry!r}; allowed: {', '.join(GEOMETRIES)}")
        self.geometry: Geometry = geometry
        self.max_length, self.connector_tokens = max_length, connector_tokens
        self.audio = audio or BeatsAudio("")  # sound is prepared alike for every BEATs
        check_family(str(pretrained), "VllmAModule")
        self.chat = ChatWriter(str(pretrained), system, chat_template)
        config: Any = AutoConfig.from_pretrained(str(pretrained), trust_remote_code=False)
        vision = config.vision_config
        found = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        if found != (PATCH_PX, TEMPORAL_PATCH, MERGE):
            raise GeometryError(
                f"{pretrained}: its vision tower reads patches of {found[0]} px in {found[1]} frames, merged "
                f"{found[2]} x {found[2]}; expected {PATCH_PX}, {TEMPORAL_PATCH}, {MERGE} as in Qwen2.5-VL."
            )
        self.positions_per_s = float(vision.tokens_per_second)
        self.visual_ids = {
            Media.VIDEO: int(config.video_token_id),
            Media.IMAGE: int(config.image_token_id),
        }
        ends = (config.vision_start_token_id, config.vision_end_token_id)
        self.vision_ends = [int(i) for i in ends]

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return self.chat.end_token

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs.

        Returns:
            ``input_ids (T,)``, ``media_kind (T,)`` (2 at places of sound), ``position_ids (3, T)``, and for
            the media that it has ``pixel_values_videos (P, 1176)``, ``video_grid_thw``, ``pixel_values``,
            ``image_grid_thw``, ``sounds (clips, M, C)`` and ``sound_steps (clips,)``. Labels ``(T,)`` hold
            the answer and the end token.

        Raises:
            GeometryError: If the media do not fit the geometry.
            ValueError: If the conversation cannot be written (see ``ChatWriter.write``), or is longer than
                ``max_length``.
        """
        written = self.chat.write(example)
        check_sizes(example, self.geometry)
        seconds = iter(seconds_per_grid(example, self.geometry))
        videos, images = iter(example.videos), iter(example.images)
        prepared = [self.audio.prepared(audio) for audio in example.audios]
        sounds = iter(prepared)
        ids: list[int] = []
        kinds: list[int] = []
        repeats: list[int] = []
        blocks: list[Block] = []
        learnt: list[bool] = []
        length = 0
        for place, (token, media) in enumerate(zip(written.ids, written.media, strict=True)):
            if media is None:
                piece = [(token, TEXT, 1)]
            elif media is Media.AUDIO:
                piece = [(self.chat.pad_token, AUDIO, self.audio_tokens(len(next(sounds))))]
            else:
                clip = next(videos) if media is Media.VIDEO else next(images)[None]
                frames, height, width = clip.shape[0], *clip.shape[-2:]
                grid = (-(-frames // TEMPORAL_PATCH), height // PATCH_PX, width // PATCH_PX)
                blocks.append(Block(length + 1, grid, next(seconds) if media is Media.VIDEO else 1.0))
                count = visual_tokens(frames, height, width)
                start, end = self.vision_ends
                piece = [(start, TEXT, 1), (self.visual_ids[media], TEXT, count), (end, TEXT, 1)]
            for token_id, kind, count in piece:
                ids.append(token_id)
                learnt.append(written.learnt[place])
                kinds.append(kind)
                repeats.append(count)
                length += count
        check_length(example, length, self.max_length)
        row = expanded(ids, repeats)
        inputs = {
            "input_ids": row,
            "media_kind": expanded(kinds, repeats),
            "position_ids": rope_positions(length, blocks, self.positions_per_s, behind="frame"),
        }
        for key, grid_key, clips in (
            ("pixel_values_videos", "video_grid_thw", example.videos),
            ("pixel_values", "image_grid_thw", [image[None] for image in example.images]),
        ):
            if clips:
                patches = [patchify(clip) for clip in clips]
                inputs[key] = torch.cat([p for p, _ in patches])
                inputs[grid_key] = torch.tensor([g for _, g in patches])
        inputs |= padded_sounds(prepared)
        labels = None
        if example.target is not None:
            labels = row.masked_fill(~expanded(learnt, repeats), IGNORED_LABEL)
        return Encoded(inputs, labels, example.sample)

    def audio_tokens(self, steps: int) -> int:
        """Return the places that a prepared clip of so many steps takes."""
        return self.connector_tokens(self.audio.tokens(steps))

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a padded batch: to the right with labels, to the left for prompts.

        Raises:
            ValueError: If only some items carry labels.
        """
        inputs, labels = padded_text(items, self.chat.pad_token)
        rows = [item.inputs for item in items]
        positions = pad_rows([row["position_ids"] for row in rows], PAD_POSITION, left=labels is None)
        inputs["position_ids"] = positions.transpose(0, 1)  # (B, 3, T) -> (3, B, T), the model's order
        for key in _VISION:
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
