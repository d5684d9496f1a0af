"""The processor of Qwen2.5-Omni's thinker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, Qwen2_5OmniProcessor

from crab_lightning.media import MEL_BINS, log_mel
from crab_lightning.processing.base import (
    IGNORED_LABEL,
    batch_of,
    check_length,
    check_media,
    check_reserved,
    concatenated,
    pad_rows,
    padded,
)
from crab_lightning.processing.families import check_family
from crab_lightning.processing.geometry import (
    MAX_AUDIO_S,
    MERGE,
    QWEN2_5,
    TEMPORAL_PATCH,
    Geometry,
    GeometryError,
    MediaRules,
    PlaceholderIds,
    check_sizes,
    checked_geometry,
    seconds_per_grid,
)
from crab_lightning.processing.patches import IMAGE_MEAN, IMAGE_STD, patched
from crab_lightning.processing.positions import Block, rope_positions
from crab_lightning.structures import SAMPLE_RATE_HZ, SYSTEM_MESSAGE, Batch, Encoded, Example, Media, Reply

IM_END = "<|im_end|>"
_SEEN = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw", "video_second_per_grid")


class NativeProcessor:
    """Makes the inputs of Qwen2.5-Omni's thinker, and decodes its answers.

    Tokens and constants are those of the checkpoint's own processor. Pixels and spectrograms are computed
    here with the same values, because that processor resizes frames of 224 px to 336, assumes 2 frames a
    second, and pads every sound to 300 s (0.75 s of computing for each clip).

    Args:
        pretrained: Folder or hub name of a Qwen2.5-Omni checkpoint, of which only processor and config are
            read.
        geometry: ``released`` is the input of the released adapter (224 px, 2.0 s per grid). ``plain`` keeps
            the true time scale of the clip.
        max_length: Longest sample in tokens. A longer sample is an error and is not cut. By default, there is
            no limit.

    Raises:
        GeometryError: If the checkpoint's processor uses other patches, colours or spectrograms than the
            published one.
        ValueError: If the checkpoint is of another architecture, or has another chat template.
    """

    reader: ClassVar[str] = "OmniModule"
    reads_text_models: ClassVar[bool] = False
    family: ClassVar[str] = "Qwen2.5-Omni"
    stock_class: ClassVar[Any] = Qwen2_5OmniProcessor
    rules: ClassVar[MediaRules] = QWEN2_5
    system_message: ClassVar[str | None] = SYSTEM_MESSAGE
    token_id_suffix: ClassVar[str] = "token_index"
    """End of the config keys with the ids of placeholders: ``image_token_index`` and so on."""

    def __init__(
        self, pretrained: str | Path, geometry: Geometry = "released", max_length: int | None = None
    ) -> None:
        self.pretrained = str(pretrained)
        self.geometry: Geometry = checked_geometry(geometry)
        self.max_length = max_length
        check_family(self.pretrained, type(self))
        self.stock = self.stock_class.from_pretrained(self.pretrained, trust_remote_code=False)
        self.tokenizer: Any = self.stock.tokenizer
        config = AutoConfig.from_pretrained(self.pretrained, trust_remote_code=False)
        self.thinker_config: Any = getattr(config, "thinker_config", config)
        self._check_stock()
        self._check_template()

    @cached_property
    def placeholders(self) -> PlaceholderIds:
        """Ids of the tokens that stand for media."""
        return PlaceholderIds(
            **{
                kind: getattr(self.thinker_config, f"{kind}_{self.token_id_suffix}")
                for kind in ("image", "video", "audio")
            }
        )

    @cached_property
    def _colours(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of the colours, for pictures and for videos."""
        parts = {"image": self.stock.image_processor, "video": self.stock.video_processor}
        return {kind: (tuple(p.image_mean), tuple(p.image_std)) for kind, p in parts.items()}

    @cached_property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.tokenizer.convert_tokens_to_ids(IM_END))

    @cached_property
    def _reserved(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.all_special_tokens)

    def _check_stock(self) -> None:
        """Check that the processor of the checkpoint has the constants that are used here."""
        for name, (found, expected) in self._found_and_expected().items():
            if found != expected:
                raise GeometryError(
                    f"{self.pretrained}: {name} is {found}, expected {expected}. This is not the input on "
                    f"which {self.family}'s thinker was trained; use one with the published processor."
                )

    def _found_and_expected(self) -> dict[str, tuple[Any, Any]]:
        """Return the constants of the checkpoint, each with the value that this code needs."""
        stock, tok, ids = self.stock, self.tokenizer, self.placeholders
        found_and_expected: dict[str, tuple[Any, Any]] = {}
        for part in ("image_processor", "video_processor"):
            p = getattr(stock, part)
            found_and_expected |= {
                f"{part}.patch_size": (p.patch_size, self.rules.patch_px),
                f"{part}.temporal_patch_size": (p.temporal_patch_size, TEMPORAL_PATCH),
                f"{part}.merge_size": (p.merge_size, MERGE),
            }
        mel = stock.feature_extractor
        return (
            found_and_expected
            | {
                "feature_extractor.sampling_rate": (mel.sampling_rate, SAMPLE_RATE_HZ),
                "feature_extractor.feature_size": (mel.feature_size, MEL_BINS),
                "feature_extractor.hop_length": (mel.hop_length, 160),
                "feature_extractor.n_fft": (mel.n_fft, 400),
                f"config.image_{self.token_id_suffix}": (ids.image, tok.image_token_id),
                f"config.video_{self.token_id_suffix}": (ids.video, tok.video_token_id),
                f"config.audio_{self.token_id_suffix}": (ids.audio, tok.audio_token_id),
            }
            | self._expected_of_family()
        )

    def _expected_of_family(self) -> dict[str, tuple[Any, Any]]:
        """Return further constants of this architecture, each with the needed value."""
        found: dict[str, tuple[Any, Any]] = {}
        for kind, (mean, std) in self._colours.items():
            found[f"{kind}_processor.image_mean"] = (mean, IMAGE_MEAN)
            found[f"{kind}_processor.image_std"] = (std, IMAGE_STD)
        return found

    def _check_template(self) -> None:
        """Check that the chat template of the checkpoint writes a conversation in the way of this class."""
        if self.stock.chat_template is None:
            return
        user = [{"type": "text", "text": "a"}, {"type": "video", "video": ""}, {"type": "audio", "audio": ""}]
        user += [{"type": "image", "image": ""}, {"type": "text", "text": "b"}]
        chat: Any = [{"role": "user", "content": user}]
        if self.system_message is not None:
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system_message}]})
        found = self.stock.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        found = found[0] if isinstance(found, list) else found
        expected = self.render(("a", Media.VIDEO, Media.AUDIO, Media.IMAGE, "b"))
        if found != expected:
            raise ValueError(
                f"{self.pretrained}: its chat template writes {found!r}, expected {expected!r}. "
                f"Use the chat template of {self.family}."
            )

    def render(self, conversation: Sequence[str | Media], target: str | None = None) -> str:
        """Return a conversation as text, with one placeholder token for each clip (AV-UIE v2 section 2)."""
        head = "".join(self._pieces(conversation)) + "\n"
        return head if target is None else f"{head}{target}{IM_END}\n"

    def _pieces(self, conversation: Sequence[str | Media]) -> list[str]:
        """Return the prompt in pieces: the questions and, between them, the earlier answers.

        Every question ends with ``assistant``. Every answer begins with the newline after it and ends with
        the end token. No token of Qwen's pre-tokenizer contains a letter and a newline. So the tokens of the
        pieces are the same as those of the whole prompt.
        """
        t = self.tokenizer
        media = {
            Media.VIDEO: f"{t.vision_bos_token}{t.video_token}{t.vision_eos_token}",
            Media.IMAGE: f"{t.vision_bos_token}{t.image_token}{t.vision_eos_token}",
            Media.AUDIO: f"{t.audio_bos_token}{t.audio_token}{t.audio_eos_token}",
        }
        asked = f"{IM_END}\n<|im_start|>assistant"
        system = "" if self.system_message is None else f"<|im_start|>system\n{self.system_message}{IM_END}\n"
        pieces = [f"{system}<|im_start|>user\n"]
        for part in conversation:
            if isinstance(part, Reply):
                pieces[-1] += asked
                pieces += [f"\n{part}{IM_END}", "\n<|im_start|>user\n"]
            else:
                pieces[-1] += media[part] if isinstance(part, Media) else part
        pieces[-1] += asked
        return pieces

    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs.

        Returns:
            ``input_ids (T,)``, ``position_ids (3, T)``, and for its media ``pixel_values_videos (P, W)``,
            ``video_grid_thw``, ``video_second_per_grid``, ``pixel_values``, ``image_grid_thw``,
            ``input_features (clips, 128, M)``, ``feature_attention_mask (clips, M)``. The labels ``(T,)`` are
            the newline, the target and the end token, and the same for earlier answers that are learnt.

        Raises:
            GeometryError: If the media do not fit the geometry.
            ValueError: If the numbers of placeholders and media differ, a text contains a reserved token, or
                the sample is longer than ``max_length``.
        """
        self._check_example(example)
        check_sizes(example, self.geometry, self.rules)
        seconds = seconds_per_grid(example, self.geometry)
        ids, blocks, learnt = self._tokens(example, seconds)
        check_length(example, len(ids), self.max_length)
        inputs: dict[str, Tensor] = {
            "input_ids": ids,
            "position_ids": rope_positions(
                len(ids),
                blocks,
                self.thinker_config.position_id_per_seconds,
                whole=self.rules.whole_positions,
            ),
        }
        patch_px = self.rules.patch_px
        inputs |= patched(example.videos, _SEEN[:2], patch_px, *self._colours["video"])
        if example.videos:
            inputs["video_second_per_grid"] = torch.tensor(seconds)
        images = [image[None] for image in example.images]
        inputs |= patched(images, _SEEN[2:4], patch_px, *self._colours["image"])
        if example.audios:
            mels = [log_mel(a, mirrored_end=self.rules.mirrored_end) for a in example.audios]
            inputs["input_features"] = pad_rows(mels, 0.0, left=False)
            ones = [torch.ones(m.shape[-1], dtype=torch.long) for m in mels]
            inputs["feature_attention_mask"] = pad_rows(ones, 0, left=False)
        labels = None if example.target is None else ids.masked_fill(~learnt, IGNORED_LABEL)
        return Encoded(inputs, labels, example.sample)

    def _check_example(self, example: Example) -> None:
        check_media(example)
        texts = [part for part in example.conversation if isinstance(part, str)]
        check_reserved(example.sample.id, [*texts, example.target or ""], self._reserved)
        for wave in example.audios:
            seconds = wave.shape[-1] / SAMPLE_RATE_HZ
            if seconds > MAX_AUDIO_S or self.rules.sound_tokens(wave.shape[-1]) < 1:
                raise GeometryError(
                    f"{example.sample.id}: {seconds:.3f} s of audio; the model reads 0.03 s to {MAX_AUDIO_S} "
                    "s. Choose another audio window for the dataset."
                )

    def _tokens(self, example: Example, seconds: Sequence[float]) -> tuple[Tensor, list[Block], Tensor]:
        """Return the token ids with repeated placeholders, the visual blocks, and which tokens are learnt."""
        # The answer starts at the newline after ``assistant`` (see _pieces).
        heads = [_prompt_tokens(self.tokenizer, piece) for piece in self._pieces(example.conversation)]
        answer = "\n" if example.target is None else f"\n{example.target}{IM_END}\n"
        prompt = np.concatenate([np.asarray(head, dtype=np.int64) for head in heads])
        tail = np.asarray(_tokenize(self.tokenizer, answer), dtype=np.int64)
        # Every other piece is an answer; the newline after the last end token is not learnt.
        replies = [np.full(len(head), example.learn_replies and i % 2 == 1) for i, head in enumerate(heads)]
        ids = self.placeholders
        video, image, audio = (
            iter(zip(example.videos, seconds, strict=True)),
            iter(example.images),
            iter(example.audios),
        )
        repeats = np.ones_like(prompt)
        visual: list[tuple[int, tuple[int, int, int], float]] = []
        for place in np.flatnonzero((prompt == ids.video) | (prompt == ids.image) | (prompt == ids.audio)):
            if prompt[place] == ids.audio:
                repeats[place] = self.rules.sound_tokens(next(audio).shape[-1])
                continue
            if prompt[place] == ids.video:
                clip, span = next(video)
                frames, height, width = clip.shape[0], *clip.shape[-2:]
            else:
                frames, (height, width), span = 1, next(image).shape[-2:], 1.0
            repeats[place] = self.rules.visual_tokens(frames, height, width)
            patch_px = self.rules.patch_px
            grid = (-(-frames // TEMPORAL_PATCH), height // patch_px, width // patch_px)
            visual.append((int(place), grid, span))
        starts = np.cumsum(repeats) - repeats
        blocks = [Block(int(starts[place]), grid, span) for place, grid, span in visual]
        expanded = np.concatenate((np.repeat(prompt, repeats), tail))
        learnt = np.concatenate(
            (np.repeat(np.concatenate(replies), repeats), np.arange(len(tail)) < len(tail) - 1)
        )
        return torch.from_numpy(expanded), blocks, torch.from_numpy(learnt)

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a batch, which is padded on the right with labels, and on the left for prompts.

        Raises:
            ValueError: If only some items have labels.
        """
        inputs, labels = padded(items, int(self.tokenizer.pad_token_id))
        rows = [item.inputs for item in items]
        inputs |= concatenated(rows, _SEEN)
        for key in ("input_features", "feature_attention_mask"):
            if clips := [clip for row in rows if key in row for clip in row[key]]:
                inputs[key] = pad_rows(clips, 0, left=False)
        return batch_of(inputs, labels, items, repeated)

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens of an answer as in training, with the end token.

        Raises:
            ValueError: If the text contains a reserved token, or its first letters merge with the end of the
                prompt.
        """
        check_reserved(f"answer {text!r}", [text], self._reserved)
        opening = _tokenize(self.tokenizer, "\n")
        whole = _tokenize(self.tokenizer, f"\n{text}{IM_END}")
        if whole[: len(opening)] != opening:
            raise ValueError(
                f"answer {text!r}: its beginning merges with the newline before it, so the model could "
                "never write it; write an answer that begins with a letter or a tag"
            )
        return whole[len(opening) :]

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, without special tokens and outer white space."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# Most datasets have the same prompt for every sample; tokenizing it takes a tenth of a cached sample's time.
_prompt_tokens = lru_cache(maxsize=256)(_tokenize)
