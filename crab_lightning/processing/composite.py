"""The common part of the processors of LLM+V+A and V-LLM+A: the chat template, sound and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from crab_lightning.encoders import AudioEncoder, BeatsAudio
from crab_lightning.processing.base import IGNORED_LABEL, batch_of, concatenated, pad_rows, padded
from crab_lightning.processing.chat import ChatWriter, expanded
from crab_lightning.processing.families import check_family
from crab_lightning.processing.geometry import Geometry, checked_geometry
from crab_lightning.structures import Batch, Encoded, Example


class CompositeProcessor(ABC):
    """Writes conversations with a chat template, and leaves free places for the tokens of sound.

    The arguments are those of :class:`LlmVaProcessor`, and so are the errors.
    """

    reader: ClassVar[str]
    reads_text_models: ClassVar[bool] = False
    seen: ClassVar[tuple[str, ...]]
    """Names of the inputs for pictures. Those of several samples are joined."""

    def __init__(
        self,
        pretrained: str | Path,
        geometry: Geometry,
        max_length: int | None,
        system: str | None,
        chat_template: str | Path | None,
        end_token: str | None,
        audio: AudioEncoder | None,
    ) -> None:
        self.geometry: Geometry = checked_geometry(geometry)
        self.max_length = max_length
        self.audio = audio or BeatsAudio("")  # sound is prepared in the same way for every BEATs
        check_family(str(pretrained), type(self))
        self.chat = ChatWriter(str(pretrained), system, chat_template, end_token)

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return self.chat.end_token

    @abstractmethod
    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs without padding, with labels if the example has a target."""

    @abstractmethod
    def audio_tokens(self, steps: int) -> int:
        """Return the number of tokens for a prepared piece of sound with this number of steps."""

    def encoded(
        self, example: Example, inputs: dict[str, Tensor], learnt: Sequence[bool], repeats: Sequence[int]
    ) -> Encoded:
        """Return an example with its labels, which are the learnt answers with their end tokens."""
        labels = None
        if example.target is not None:
            labels = inputs["input_ids"].masked_fill(~expanded(learnt, repeats), IGNORED_LABEL)
        return Encoded(inputs, labels, example.sample)

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a batch, which is padded on the right with labels, and on the left for prompts.

        Raises:
            ValueError: If only some items have labels.
        """
        inputs, labels = padded(items, self.chat.pad_token)
        rows = [item.inputs for item in items]
        inputs |= concatenated(rows, self.seen) | joined_sounds(rows)
        return batch_of(inputs, labels, items, repeated)

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens of an answer as in training, with the end token."""
        return self.chat.answer_tokens(text)

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, without special tokens and outer white space."""
        return self.chat.decode(token_ids)


def padded_sounds(sounds: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return prepared pieces ``(M, C)`` as one padded tensor ``(pieces, M, C)``, and their lengths."""
    if not sounds:
        return {}
    return {
        "sounds": pad_rows([piece.T for piece in sounds], 0.0, left=False).transpose(1, 2),
        "sound_steps": torch.tensor([len(piece) for piece in sounds]),
    }


def joined_sounds(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the prepared pieces of all samples as one padded tensor, and their lengths."""
    found = [row for row in rows if "sounds" in row]
    return padded_sounds(
        [
            piece[:steps]
            for row in found
            for piece, steps in zip(row["sounds"], row["sound_steps"].tolist(), strict=True)
        ]
    )
