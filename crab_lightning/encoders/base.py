"""What LLM+V+A and V-LLM+A ask of a vision and of an audio encoder.

An encoder is a small object that a config names by ``class_path``. It says how media are prepared, how the
weights are loaded and what the features are; the weights lie in the module that ``load`` returns. So it can
travel to loader workers, and a plan can count weights that nobody has loaded.

Sharding (FSDP) takes the blocks in every ``nn.ModuleList`` of that module one by one. A block's weights are
whole only while the block's own ``forward`` runs, so ``features`` must not read them from outside.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crab_lightning.structures import SAMPLE_RATE_HZ

Colours = tuple[float, ...]
CLIP_MEAN: Colours = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colours = (0.26862954, 0.26130258, 0.27577711)


class Encoder(ABC):
    """A frozen encoder and its checkpoint.

    Args:
        pretrained: Folder, file or hub name of the checkpoint.
    """

    key: str = "encoder"
    """Argument of the model that names it, for messages."""

    def __init__(self, pretrained: str) -> None:
        self.pretrained = str(pretrained)

    @property
    def name(self) -> str:
        """Name of the class, by which a connector knows whose features it reads."""
        return type(self).__name__

    @property
    def ffn(self) -> int:
        """Width inside its feed-forward layers, by which ``plan`` estimates memory; 0 where it has none."""
        return 0

    def arguments(self) -> dict[str, Any]:
        """Return what the object was made with; each argument has to be kept under its own name.

        Raises:
            ValueError: If one is not.
        """
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        if lost := [name for name in names if not hasattr(self, name)]:
            raise ValueError(
                f"{self.name} does not keep its argument {lost[0]!r} as self.{lost[0]}; checkpoints "
                "read it from there. Keep it under that name"
            )
        return {name: getattr(self, name) for name in names}

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the module with random weights; called on the meta device by ``plan``."""

    @abstractmethod
    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the module with the checkpoint's weights.

        Raises:
            FileNotFoundError: If there is no checkpoint.
            ValueError: If it is of another family, or weights are missing.
        """

    @abstractmethod
    def width(self, tower: nn.Module) -> int:
        """Return the width E of the features of the module that ``build`` or ``load`` returned."""

    def _refuse_shape(self, found: Tensor, pieces: int, tokens: int) -> None:
        raise ValueError(
            f"{self.name}.features returned {tuple(found.shape)} for {pieces} pieces, of which the longest "
            f"has {tokens} features by {self.name}.tokens; it must return (pieces, features, width). Correct "
            "one of the two"
        )


class VisualEncoder(Encoder):
    """A vision encoder: square frames to features.

    Shapes: F frames, N features of each, E wide.
    """

    key = "visual_encoder"

    @property
    @abstractmethod
    def side_px(self) -> int:
        """Side of the frames that it reads, in pixels; the ``size_px`` of the datasets."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Features N of a frame."""

    @abstractmethod
    def features(self, tower: nn.Module, frames: Tensor, counts: Tensor) -> Tensor:
        """Encode frames.

        Args:
            tower: What ``load`` returned.
            frames: uint8 ``(F, 3, side_px, side_px)``, of all clips and images in order.
            counts: int64 ``(clips,)``, the frames of each clip or image, for an encoder that sees them
                together.

        Returns:
            ``(F, N, E)``.
        """

    def encoded(self, tower: nn.Module, frames: Tensor, counts: Tensor) -> Tensor:
        """Return ``features``.

        Raises:
            ValueError: If they are not ``tokens`` of each frame.
        """
        found = self.features(tower, frames, counts)
        if found.dim() != 3 or found.shape[:2] != (len(frames), self.tokens):
            self._refuse_shape(found, len(frames), self.tokens)
        return found


class AudioEncoder(Encoder):
    """An audio encoder: mono sound of 16 kHz to features.

    Shapes: S samples, G pieces of sound, M prepared steps, C values of each, N features, E wide.
    """

    key = "audio_encoder"
    alone_s: ClassVar[int | None] = None
    """In LLM+V+A, the length of the pieces that are heard apart from each other, in seconds; ``None`` for an
    encoder that hears a clip as a whole, whose features are cut into seconds afterwards."""
    shortest_samples: ClassVar[int] = 1
    """Samples that give at least one feature; shorter sound is filled up with silence."""

    @property
    @abstractmethod
    def tokens_per_s(self) -> float:
        """Features of a second of sound."""

    @property
    def cut(self) -> int | None:
        """Features that LLM+V+A takes for a second; ``None`` where each piece is heard alone."""
        return round(self.tokens_per_s) if self.alone_s is None else None

    def groups(self, steps: int) -> int:
        """Return how many seconds, the last begun one included, LLM+V+A makes of a prepared piece."""
        return 1 if self.cut is None else max(1, -(-self.tokens(steps) // self.cut))

    @abstractmethod
    def prepare(self, audio: Tensor) -> Tensor:
        """Return what the module reads of a waveform; runs in the loader workers.

        Args:
            audio: float32 ``(S,)``, 16 kHz, in [-1, 1], at least ``shortest_samples`` long.

        Returns:
            float32 ``(M, C)``; pieces of a batch are padded along M with zeros.
        """

    @abstractmethod
    def tokens(self, steps: int) -> int:
        """Return the features N of ``steps`` prepared steps."""

    @abstractmethod
    def features(self, tower: nn.Module, sounds: Tensor, steps: Tensor) -> Tensor:
        """Encode sound; each piece gets the features that it would get alone.

        Args:
            tower: What ``load`` returned.
            sounds: ``(G, M, C)``, padded behind.
            steps: int64 ``(G,)``, the steps of each.

        Returns:
            ``(G, N, E)``, the first ``tokens(steps[g])`` of each row its own.
        """

    def prepared(self, audio: Tensor) -> Tensor:
        """Return ``prepare`` of a waveform, filled up with silence where it is too short.

        Raises:
            ValueError: If the waveform is empty.
        """
        if not len(audio):
            raise ValueError("the audio clip is empty; it needs at least one sample")
        if (lacking := self.shortest_samples - len(audio)) > 0:
            audio = nn.functional.pad(audio, (0, lacking))
        return self.prepare(audio)

    def pieces(self, audio: Tensor) -> list[Tensor]:
        """Return the prepared pieces of a clip that LLM+V+A hears: parts of ``alone_s``, or the whole.

        A rest too short for one feature is not heard, as at the end of any clip.

        Args:
            audio: ``(S,)``, 16 kHz.

        Returns:
            ``(M, C)`` each.
        """
        if self.alone_s is None or not len(audio):
            return [self.prepared(audio)]
        parts = list(torch.split(audio, self.alone_s * SAMPLE_RATE_HZ))
        if len(parts) > 1 and len(parts[-1]) < self.shortest_samples:
            parts.pop()
        return [self.prepared(part) for part in parts]

    def encoded(self, tower: nn.Module, sounds: Tensor, steps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return ``features`` and what is each piece's own ``(G, N)``, ``None`` where all of it is.

        Raises:
            ValueError: If they are fewer than ``tokens`` says.
        """
        found = self.features(tower, sounds, steps)
        counts = [self.tokens(count) for count in steps.tolist()]
        if found.dim() != 3 or len(found) != len(sounds) or found.shape[1] < max(counts):
            self._refuse_shape(found, len(sounds), max(counts))
        places = torch.arange(found.shape[1], device=found.device)
        own = places < torch.tensor(counts, device=found.device)[:, None]
        return found, None if min(counts) == found.shape[1] else own


class TransformersEncoder(Encoder):
    """An encoder that is a class of transformers, or the part of one.

    Args:
        pretrained: Folder or hub name of the checkpoint.
    """

    families: ClassVar[tuple[str, ...]]
    """``model_type`` of the config.json of the checkpoints that it reads."""
    part: ClassVar[tuple[str, ...]] = ()
    """Keys under which the encoder's config lies in the config of a larger model, the outer one first."""

    library_class: ClassVar[str] = ""
    """Name of the class of transformers, where every checkpoint has the same."""

    def kind(self) -> Any:
        """Return the class of transformers; it is imported when it is needed."""
        import transformers

        return getattr(transformers, self.library_class)

    @cached_property
    def config(self) -> Any:
        """The encoder's own config, read from the checkpoint's config.json.

        Raises:
            ValueError: If the checkpoint is of another family.
        """
        from transformers import AutoConfig, PreTrainedConfig

        found = PreTrainedConfig.get_config_dict(self.pretrained)[0].get("model_type")
        if found not in self.families:
            raise ValueError(
                f"model.{self.key} {self.pretrained}: the model_type of its config.json is {found!r}; "
                f"{self.name} reads {' or '.join(self.families)}. Choose the class that reads this family, "
                "or give another checkpoint"
            )
        config: Any = AutoConfig.from_pretrained(self.pretrained, trust_remote_code=False)
        for key in self.part:
            config = getattr(config, key, config)
        return config

    @property
    def ffn(self) -> int:
        """Width inside its feed-forward layers."""
        return int(getattr(self.config, "intermediate_size", 4 * self.config.hidden_size))

    def build(self) -> nn.Module:
        """Return the module with random weights."""
        from crab_lightning.compat import from_config

        module: nn.Module = from_config(self.kind(), self.config)
        return module

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Return the module with the checkpoint's weights."""
        _ = self.config  # refuses another family before weights are read
        module: nn.Module = load_complete(self.kind(), self.pretrained, f"encoder {self.name}", dtype=dtype)
        return module

    def width(self, tower: nn.Module) -> int:
        """Return the width of the features."""
        return int(self.config.hidden_size)


class PatchVision(TransformersEncoder, VisualEncoder):
    """A vision encoder of transformers that gives a feature for each square patch of a frame."""

    @property
    def tokens(self) -> int:
        """Patches of a frame."""
        return int((self.side_px // self.config.patch_size) ** 2)


def load_complete(kind: Any, name: str, what: str, **options: Any) -> Any:
    """Return a transformers model of a checkpoint, all of whose weights are in it.

    Args:
        kind: Its class.
        name: Folder or hub name.
        what: What it is, for the message.
        options: Of ``from_pretrained``.

    Raises:
        ValueError: If weights are missing or of another shape, so that they would stay random.
    """
    from crab_lightning.compat import load_with_info

    model, info = load_with_info(kind, name, **options)
    missing, wrong = sorted(info["missing_keys"]), sorted(map(str, info["mismatched_keys"]))
    if missing or wrong:
        raise ValueError(
            f"{name}: {len(missing)} weights of the {what} are missing (first: {missing[:1]}), {len(wrong)} "
            f"have another shape (first: {wrong[:1]}). They would keep random values. Use a complete"
            f" checkpoint."
        )
    return model


def normalised(frames: Tensor, mean: Colours, std: Colours, dtype: torch.dtype) -> Tensor:
    """Return frames as an encoder was trained on them: ``(frames / 255 - mean) / std``.

    Args:
        frames: uint8 ``(F, 3, H, W)``.
        mean: Mean of each colour, in [0, 1].
        std: Standard deviation of each colour.
        dtype: Type of the result.
    """
    shift = torch.tensor(mean, device=frames.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=frames.device).view(1, 3, 1, 1)
    return ((frames.float() / 255 - shift) / scale).to(dtype)
