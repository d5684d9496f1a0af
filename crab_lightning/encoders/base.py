"""The base classes of the vision and audio encoders of LLM+V+A and V-LLM+A.

An encoder is a small object that a config names by ``class_path``. It prepares media, loads the weights and
computes features. The weights are in the module that ``load`` returns, not in the encoder. So an encoder can
be sent to loader workers, and ``plan`` can count weights without loading them.

Sharding (FSDP) takes the blocks in every ``nn.ModuleList`` of that module one by one. A block's weights are
complete only while the block's own ``forward`` runs, so ``features`` must not read them from outside.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from crab_lightning.structures import SAMPLE_RATE_HZ

_ROUNDING = 0.05
"""Largest relative difference that rounding in bfloat16 explains."""
Colours = tuple[float, ...]
CLIP_MEAN: Colours = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colours = (0.26862954, 0.26130258, 0.27577711)


class Encoder(ABC):
    """A frozen encoder and its checkpoint.

    Args:
        pretrained: Folder, file or hub name of the checkpoint.
    """

    key: str = "encoder"
    """Argument of the model that names the encoder, for error messages."""

    def __init__(self, pretrained: str) -> None:
        self.pretrained = str(pretrained)

    @property
    def name(self) -> str:
        """Name of the class; a connector file stores it, so that it is not used with another encoder."""
        return type(self).__name__

    @property
    def ffn(self) -> int:
        """Width inside the feed-forward layers, from which ``plan`` estimates memory; 0 if there are none."""
        return 0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor by name, read from the attributes of the same names.

        Raises:
            ValueError: If the object has no attribute with the name of an argument.
        """
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        if lost := [name for name in names if not hasattr(self, name)]:
            raise ValueError(
                f"{self.name} does not store its argument {lost[0]!r} as self.{lost[0]}, where checkpoints "
                "read it. Store it under that name"
            )
        return {name: getattr(self, name) for name in names}

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the module with random weights; called on the meta device by ``plan``."""

    @abstractmethod
    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the module with the checkpoint's weights.

        Args:
            dtype: Type of the weights.

        Raises:
            OSError: If there is no checkpoint.
            ValueError: If the checkpoint is of another family, or weights are missing.
        """

    @abstractmethod
    def width(self, tower: nn.Module) -> int:
        """Return the width E of the features of the module that ``build`` or ``load`` returned."""

    def _refuse_mixed(self, together: Tensor, alone: Tensor) -> None:
        apart = (together - alone).float().norm() / alone.float().norm().clamp(min=1e-6)
        if not apart <= _ROUNDING:
            raise ValueError(
                f"{self.name}.features gives a clip other features beside a longer clip than alone (they"
                f" differ by {float(apart):.0%} of their norm). Let it ignore the padding after shorter clips"
            )

    def _refuse_shape(self, found: Tensor, pieces: int, tokens: int) -> None:
        raise ValueError(
            f"{self.name}.features returned the shape {tuple(found.shape)} for {pieces} pieces, but it must "
            f"return (pieces, features, width). According to {self.name}.tokens the longest piece has "
            f"{tokens} features. Correct one of the two"
        )


class VisualEncoder(Encoder):
    """A vision encoder: it computes features of square frames.

    Shapes: F frames, N features of each frame, width E.
    """

    key = "visual_encoder"

    @property
    @abstractmethod
    def side_px(self) -> int:
        """Side of the frames in pixels; the ``size_px`` of the datasets must be the same."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Number N of features of a frame."""

    @abstractmethod
    def features(self, tower: nn.Module, frames: Tensor, counts: Tensor) -> Tensor:
        """Encode frames.

        Args:
            tower: The module that ``load`` returned.
            frames: uint8 ``(F, 3, side_px, side_px)``, of all clips and images in order.
            counts: int64 ``(clips,)``, the number of frames of each clip or image, for an encoder that reads
                the frames of a clip together.

        Returns:
            ``(F, N, E)``.
        """

    def encoded(self, tower: nn.Module, frames: Tensor, counts: Tensor) -> Tensor:
        """Return the result of ``features`` after a check of its shape.

        Raises:
            ValueError: If there are not ``tokens`` features for each frame.
        """
        found = self.features(tower, frames, counts)
        if found.dim() != 3 or found.shape[:2] != (len(frames), self.tokens):
            self._refuse_shape(found, len(frames), self.tokens)
        return found

    @torch.no_grad()
    def check_apart(self, tower: nn.Module) -> None:
        """Check that features do not depend on the other clips of a batch.

        Raises:
            ValueError: If they do.
        """
        noise = torch.Generator().manual_seed(0)
        frames = torch.randint(256, (4, 3, self.side_px, self.side_px), generator=noise).byte()
        frames[1:] //= 4  # the clips differ in brightness too, since a mean over the batch would mix them
        together = self.encoded(tower, frames, torch.tensor([1, 3]))
        self._refuse_mixed(together[:1], self.encoded(tower, frames[:1], torch.tensor([1])))


class AudioEncoder(Encoder):
    """An audio encoder: it computes features of mono sound of 16 kHz.

    Shapes: S samples, G pieces of sound, M prepared steps, C values of each step, N features, width E.
    """

    key = "audio_encoder"
    alone_s: ClassVar[int | None] = None
    """Length in seconds of the pieces that LLM+V+A encodes separately. ``None``: the clip is encoded as a
    whole, and its features are cut into seconds afterwards."""
    shortest_samples: ClassVar[int] = 1
    """Smallest number of samples that gives a feature; shorter sound is padded with silence."""

    @property
    @abstractmethod
    def tokens_per_s(self) -> float:
        """Number of features of a second of sound."""

    @property
    def cut(self) -> int | None:
        """Number of features that LLM+V+A groups into a second; ``None`` if pieces are encoded separately."""
        return round(self.tokens_per_s) if self.alone_s is None else None

    def groups(self, steps: int) -> int:
        """Return the number of groups that LLM+V+A makes of a prepared piece.

        Args:
            steps: Number of prepared steps of the piece.

        Returns:
            1 if pieces are encoded separately. Otherwise the number of seconds, rounded up.
        """
        return 1 if self.cut is None else max(1, -(-self.tokens(steps) // self.cut))

    @abstractmethod
    def prepare(self, audio: Tensor) -> Tensor:
        """Return the input of the module for a waveform; loader workers call this method.

        Args:
            audio: float32 ``(S,)``, 16 kHz, in [-1, 1], at least ``shortest_samples`` long.

        Returns:
            float32 ``(M, C)``. Later, the pieces of a batch are padded along M with zeros.
        """

    @abstractmethod
    def tokens(self, steps: int) -> int:
        """Return the number N of features of ``steps`` prepared steps."""

    @abstractmethod
    def features(self, tower: nn.Module, sounds: Tensor, steps: Tensor) -> Tensor:
        """Encode sound; the features of a piece must not depend on the other pieces.

        Args:
            tower: The module that ``load`` returned.
            sounds: ``(G, M, C)``, padded at the end.
            steps: int64 ``(G,)``, the number of steps of each piece.

        Returns:
            ``(G, N, E)``. The first ``tokens(steps[g])`` features of row g are valid, the rest is padding.
        """

    def prepared(self, audio: Tensor) -> Tensor:
        """Return the result of ``prepare``; a waveform that is too short is first padded with silence.

        Raises:
            ValueError: If the waveform is empty.
        """
        if not len(audio):
            raise ValueError("the audio clip is empty; it needs at least one sample")
        if (lacking := self.shortest_samples - len(audio)) > 0:
            audio = nn.functional.pad(audio, (0, lacking))
        return self.prepare(audio)

    def pieces(self, audio: Tensor) -> list[Tensor]:
        """Return the prepared pieces of a clip for LLM+V+A: parts of ``alone_s`` seconds, or the whole clip.

        A last part that is too short for one feature is dropped.

        Args:
            audio: ``(S,)``, 16 kHz.

        Returns:
            The pieces, ``(M, C)`` each.

        Raises:
            ValueError: If the waveform is empty.
        """
        if self.alone_s is None or not len(audio):
            return [self.prepared(audio)]
        parts = list(torch.split(audio, self.alone_s * SAMPLE_RATE_HZ))
        if len(parts) > 1 and len(parts[-1]) < self.shortest_samples:
            parts.pop()
        return [self.prepared(part) for part in parts]

    def encoded(self, tower: nn.Module, sounds: Tensor, steps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the result of ``features`` after a check of its shape, and a mask of the valid features.

        Returns:
            Features ``(G, N, E)``, and bool ``(G, N)``, False in padding; ``None`` if there is no padding.

        Raises:
            ValueError: If there are fewer features than ``tokens`` requires.
        """
        found = self.features(tower, sounds, steps)
        counts = [self.tokens(count) for count in steps.tolist()]
        if found.dim() != 3 or len(found) != len(sounds) or found.shape[1] < max(counts):
            self._refuse_shape(found, len(sounds), max(counts))
        places = torch.arange(found.shape[1], device=found.device)
        own = places < torch.tensor(counts, device=found.device)[:, None]
        return found, None if min(counts) == found.shape[1] else own

    @torch.no_grad()
    def check_apart(self, tower: nn.Module) -> None:
        """Check that features do not depend on longer sounds in a batch.

        Raises:
            ValueError: If they do.
        """
        noise = 2 * torch.rand(SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(0)) - 1
        sounds = [self.prepared(noise[:length]) for length in (SAMPLE_RATE_HZ // 2, SAMPLE_RATE_HZ)]
        steps = torch.tensor([len(sound) for sound in sounds])
        together, _ = self.encoded(tower, pad_sequence(sounds, batch_first=True), steps)
        alone, _ = self.encoded(tower, sounds[0][None], steps[:1])
        own = self.tokens(len(sounds[0]))
        self._refuse_mixed(together[0, :own], alone[0, :own])


def normalised(frames: Tensor, mean: Colours, std: Colours, dtype: torch.dtype) -> Tensor:
    """Return normalised frames: ``(frames / 255 - mean) / std``.

    Args:
        frames: uint8 ``(F, 3, H, W)``.
        mean: Mean of each colour, in [0, 1].
        std: Standard deviation of each colour.
        dtype: Type of the result.

    Returns:
        ``(F, 3, H, W)``.
    """
    shift = torch.tensor(mean, device=frames.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=frames.device).view(1, 3, 1, 1)
    return ((frames.float() / 255 - shift) / scale).to(dtype)
