"""The processor of V-LLM+A, which is Qwen2.5-VL with an additional audio encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoConfig

from crab_lightning.encoders import AudioEncoder
from crab_lightning.processing.base import check_length
from crab_lightning.processing.chat import expanded
from crab_lightning.processing.composite import CompositeProcessor, padded_sounds
from crab_lightning.processing.geometry import (
    MERGE,
    PATCH_PX,
    TEMPORAL_PATCH,
    Geometry,
    GeometryError,
    check_sizes,
    seconds_per_grid,
    visual_tokens,
)
from crab_lightning.processing.patches import patched
from crab_lightning.processing.positions import Block, rope_positions
from crab_lightning.structures import AUDIO, TEXT, Encoded, Example, Media


class VllmAProcessor(CompositeProcessor):
    """Makes the inputs of Qwen2.5-VL, with free places for the tokens of sound.

    A video or image is between the vision markers of the model. Sound has no markers, because the vocabulary
    has none and frozen embeddings cannot learn new ones. Positions are those that the model computes in
    transformers 5 (``get_rope_index``), in which sound counts like text: the tokens of a video have positions
    in time, height and width, and the text after it continues after the larger of height and width of one
    frame. (In transformers 4, it continued after the time of the last frame.)

    Args:
        pretrained: Folder or hub name of a Qwen2.5-VL checkpoint, of which only tokenizer and config are
            read.
        connector_tokens: Function that returns the number of tokens for a number of features of the audio
            encoder.
        geometry: ``released`` uses 224 px and 2.0 s for a pair of frames. ``plain`` keeps the true time
            scale.
        max_length: Longest sample in tokens. A longer sample is an error and is not cut. By default, there is
            no limit.
        system: System message. By default, that of the chat template.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        audio: The audio encoder. By default, BEATs.

    Raises:
        GeometryError: If the checkpoint uses other patches than the published one.
        ValueError: If the checkpoint is of another architecture, or there is no chat template or end token.
    """

    reader: ClassVar[str] = "VllmAModule"
    seen: ClassVar[tuple[str, ...]] = (
        "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw",
    )  # fmt: skip

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
        super().__init__(pretrained, geometry, max_length, system, chat_template, None, audio)
        self.connector_tokens = connector_tokens
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

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs.

        Returns:
            ``input_ids (T,)``, ``media_kind (T,)``, ``position_ids (3, T)``, and for its media
            ``pixel_values_videos (P, 1176)``, ``video_grid_thw``, ``pixel_values``, ``image_grid_thw``,
            ``sounds (clips, M, C)`` and ``sound_steps (clips,)``. The labels ``(T,)`` are the learnt answers
            with their end tokens.

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
        inputs |= patched([image[None] for image in example.images], self.seen[:2])
        inputs |= patched(example.videos, self.seen[2:])
        inputs |= padded_sounds(prepared)
        return self.encoded(example, inputs, learnt, repeats)

    def audio_tokens(self, steps: int) -> int:
        """Return the number of tokens for a prepared clip with this number of steps."""
        return self.connector_tokens(self.audio.tokens(steps))
