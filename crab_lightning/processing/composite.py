"""What the processors of the two models with connectors share: the chat template, sound, and batches."""

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
    """Writes conversations in a chat template of text, and keeps places free for the tokens of sound.

    Args:
        pretrained: Folder or hub name of the language model; only its tokenizer and config are read.
        geometry: ``released`` or ``plain``.
        max_length: Longest sample in tokens; a longer one is an error, never cut. No limit when left out.
        system: System message; the chat template's own when left out.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        end_token: Token that ends an answer; the tokenizer's end token when left out.
        audio: The audio encoder; BEATs when left out.
    """

    reader: ClassVar[str]
    reads_text_models: ClassVar[bool] = False
    seen: ClassVar[tuple[str, ...]]
    """Inputs that are neither text nor sound; those of several samples are laid one behind the other."""

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
        self.audio = audio or BeatsAudio("")  # sound is prepared alike for every BEATs
        check_family(str(pretrained), type(self))
        self.chat = ChatWriter(str(pretrained), system, chat_template, end_token)

    @property
    def end_token(self) -> int:
        """Id of the token that ends an answer."""
        return self.chat.end_token

    @abstractmethod
    def encode(self, example: Example) -> Encoded:
        """Return one example as model inputs."""

    @abstractmethod
    def audio_tokens(self, steps: int) -> int:
        """Return the places that a prepared piece of sound of so many steps takes."""

    def encoded(
        self, example: Example, inputs: dict[str, Tensor], learnt: Sequence[bool], repeats: Sequence[int]
    ) -> Encoded:
        """Return an example with its labels: the answers, end tokens included."""
        labels = None
        if example.target is not None:
            labels = inputs["input_ids"].masked_fill(~expanded(learnt, repeats), IGNORED_LABEL)
        return Encoded(inputs, labels, example.sample)

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        """Return a padded batch: to the right with labels, to the left for prompts.

        Raises:
            ValueError: If only some items carry labels.
        """
        inputs, labels = padded(items, self.chat.pad_token)
        rows = [item.inputs for item in items]
        inputs |= concatenated(rows, self.seen) | joined_sounds(rows)
        return batch_of(inputs, labels, items, repeated)

    def answer_tokens(self, text: str) -> list[int]:
        """Return the tokens that training has for an answer, end token included."""
        return self.chat.answer_tokens(text)

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        """Return the text of generated tokens, special tokens removed, outer whitespace stripped."""
        return self.chat.decode(token_ids)


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
