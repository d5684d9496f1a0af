"""The types that several packages use.

Letters in shapes: B samples, T text tokens, F video frames, S audio samples (16 kHz), M mel frames (10 ms
each), P image patches, H and W pixels. Names end with their unit: ``_s`` (seconds), ``_hz``, ``_px``,
``_tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000

SYSTEM_MESSAGE = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory "
    "and visual inputs, as well as generating text and speech."
)
"""The system message with which every AV-UIE v2 conversation begins (format section 2)."""

Split = Literal["train", "val", "test"]
TargetPolicy = Literal["reasoning", "direct"]
Decoding = Literal["generate", "likelihood", "both"]
"""How a question is answered: with generated text, with the likeliest answer of a closed set, or both."""


TEXT, VISUAL, AUDIO = 0, 1, 2
"""The modality of a token in the sequence of a language model."""


class Media(Enum):
    """A placeholder in a conversation where a clip is inserted."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"


class Reply(str):
    """An earlier answer of the assistant in a conversation. The user's next turn follows."""

    __slots__ = ()


Conversation = tuple[str | Media, ...]
"""The parts of a question in order: text, media, instruction. Each earlier turn ends with a reply."""


@dataclass(frozen=True)
class AudioWindow:
    """The part of the sound that the model hears (AV-UIE v2 section 3).

    Args:
        kind: ``units`` cuts the clip into ``units`` equal units and keeps them all; ``one_unit`` keeps
            the unit named by the sample; ``head`` keeps the first ``head_s`` seconds, zero-padded;
            ``strided`` keeps ``[t - before, t + after]`` units around every ``every``-th unit; ``all``
            keeps the clip as it is.
        units: Number of equal units into which the clip is cut.
        head_s: Number of seconds that ``head`` keeps.
        every: Number of units from one window of ``strided`` to the next.
        before: Number of units that ``strided`` keeps before the centre of each window.
        after: Number of units that ``strided`` keeps after the centre of each window.
    """

    kind: Literal["all", "units", "one_unit", "head", "strided"] = "units"
    units: int = 10
    head_s: float = 4.0
    every: int = 6
    before: float = 0.5
    after: float = 1.5


@dataclass(frozen=True)
class MaskColours:
    """The pixels of a dataset's mask files that belong to the object. Give one of the two arguments.

    A value is a whole number (an entry of the palette, or a level of grey) or a colour such as ``#ff0000``.

    Args:
        object: The values of the object; everything else is background.
        background: The values of the background, for example 0 and the border 255; everything else is the
            object.
    """

    object: tuple[int | str, ...] | None = None
    background: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.object is None) == (self.background is None):
            raise ValueError("mask: give either `object` or `background`, a list of values or colours")


@dataclass
class DatasetSpec:
    """One dataset of the mixture: a row under ``data.datasets``.

    Args:
        task: Key of the task under ``data.tasks``.
        layout: Row format of the manifest: ``messages``, ``plain``, one of the 19 AV-UIE v2 task ids, a YAML
            file with a column map, or the import path of a class derived from ``crab_lightning.data.Layout``.
            When left out, ``columns`` describes the rows completely.
        columns: Field -> key of the file, such as ``{media: {videos: clip}, fields: {event: label}}``. This
            is a complete column map, or the entries that differ from the map of the layout. For ``messages``,
            ``plain`` and other classes, these are their settings.
        folder: Folder with the manifests and the media, under ``AVUIE_2/`` or under ``data.root``. When left
            out, it is the name of the released row format, or else the key of this entry.
        train_file: Name of the training manifest in that folder; ``train.json``, ``train.jsonl``,
            ``train.csv`` or ``train.parquet`` when left out.
        test_file: Name of the test manifest; ``test.json`` and so on when left out.
        test: Whether there is a test manifest. With ``True`` it must exist. With ``False`` it is not read,
            and the validation rows are tested. When left out, it is read if it exists.
        media_folder: Folder that the paths of the media are relative to, under ``data.root``; that of the
            manifest when left out.
        weight: Sampling weight; ``weight / sum(weights)`` is the probability of this dataset. The number of
            training rows when left out.
        limit: Keep at most this many rows of each split, chosen by the seed.
        frames: Number of frames sampled from each video.
        size_px: Height and width to which frames and images are resized.
        audio: The part of the waveform that is heard.
        clip_s: Length of the clips in whole seconds, for tasks whose answers contain times. When left out, it
            is the ``clip_s`` of the task, which is 10.
        classes: Class names for closed-set tasks, in the order of the metric's indices. When left out, they
            are the sorted names in the manifests.
        metrics: Names of the metrics to report, for tasks with several metrics.
        turns: For rows with several turns (format ``messages``): whether the model is trained on ``every``
            answer of the assistant or only on the ``last``. Tests ask the last question, after the earlier
            turns.
        target: Text that the model is trained to write: ``reasoning`` (the text of the manifest), ``direct``
            (the answer only), or the fraction of samples, between 0 and 1, that keep their reasoning.
        allow_missing: Number of training rows whose media may be missing.
        allow_refused: Number of rows of each manifest that may be left out because they cannot be read.
        mask: Colours of the mask files that belong to the object. When left out, everything that is not
            black.
    """

    task: str
    layout: str = ""
    columns: dict[str, Any] | None = None
    folder: str | None = None
    train_file: str | None = None
    test_file: str | None = None
    test: bool | None = None
    media_folder: str | None = None
    weight: float | None = None
    limit: int | None = None
    frames: int = 10
    size_px: int = 224
    audio: AudioWindow = field(default_factory=AudioWindow)
    clip_s: int | None = None
    classes: list[str] | None = None
    metrics: list[str] | None = None
    turns: Literal["every", "last"] = "every"
    target: TargetPolicy | float = "reasoning"
    allow_missing: int = 0
    allow_refused: int = 0
    mask: MaskColours | None = None

    def __post_init__(self) -> None:
        if self.clip_s is not None and self.clip_s < 1:
            raise ValueError(f"clip_s is {self.clip_s}; a clip lasts at least one second")


@dataclass(frozen=True)
class Windows:
    """Windows into which long clips are split.

    Args:
        length_s: Length of a window in seconds; use the length of the training clips.
        hop_s: Seconds from the start of a window to the start of the next one; ``length_s`` when left out.

    Raises:
        ValueError: If a number is not positive, or ``hop_s`` would leave a gap between two windows.
    """

    length_s: float = 10.0
    hop_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.length_s < float("inf"):
            raise ValueError(f"windows.length_s is {self.length_s}; it must be above 0")
        if self.hop_s is not None and not 0 < self.hop_s <= self.length_s:
            raise ValueError(
                f"windows.hop_s is {self.hop_s}; it must be above 0 and at most length_s, "
                f"{self.length_s:g}, so that no part of the clip is left out"
            )


@dataclass(frozen=True)
class ClipWindow:
    """The part of a long clip that one question is about.

    Args:
        of: Id of the sample of the whole clip.
        index: Number of the window in its clip, from 0.
        start_s: Start of the window in seconds.
        end_s: End of the window in seconds.
        whole_s: Length of the whole clip in seconds.
    """

    of: str
    index: int
    start_s: float
    end_s: float
    whole_s: float


@dataclass(frozen=True)
class Sample:
    """One question about one clip, before any media are decoded.

    Args:
        id: Unique id ``<dataset>/<key>``, which is the same in all runs and on all machines.
        dataset: Key of its row under ``data.datasets``.
        task: Key of its task under ``data.tasks``.
        split: The split in which it is used.
        clip: Id of the recording, which is the same in all datasets that use this recording.
        videos: Video files in conversation order.
        images: Image files.
        audios: Audio files in conversation order.
        unit: Index of the audio unit that is heard with a single frame (``AudioWindow.kind == "one_unit"``).
        target: Target text of the manifest; ``None`` in a test manifest.
        reference: Reference text that the released test loader keeps; empty if it keeps none.
        fields: Annotation under the names that the task documents, such as ``event`` and ``start_s``.
        row: Number of the row in its manifest, from 0, for messages.
        clips: All recordings that the sample uses, ``clip`` first. Tasks about two clips have more than one.
            If validation clips are held out, all of them have to be in the same split.
        conversation: The question of the row itself; ``None`` for the prompt of the task.
        window: The only part of the clip that is seen and heard; ``None`` for the whole clip.
        whole_s: Length of a long clip whose answer is put together from its windows. The times of its truth
            and of its answer are then seconds of the whole clip. ``None`` for every other sample.
    """

    id: str
    dataset: str
    task: str
    split: Split
    clip: str
    videos: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    audios: tuple[Path, ...] = ()
    unit: int | None = None
    target: str | None = None
    reference: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    row: int = -1
    clips: tuple[str, ...] = ()
    conversation: Conversation | None = None
    window: ClipWindow | None = None
    whole_s: float | None = None


@dataclass
class Example:
    """A sample with decoded media and chosen texts, which a processor encodes.

    Args:
        sample: The sample.
        conversation: The user's turn. It has one placeholder for each entry of ``videos``, ``images`` and
            ``audios``.
        target: Text to be learnt; ``None`` if only a prompt is needed.
        videos: Frames of each video, uint8 ``(F, 3, H, W)``.
        images: Images, uint8 ``(3, H, W)`` each.
        audios: Waveforms, float32 ``(S,)`` each, 16 kHz, in [-1, 1].
        seconds_per_grid: Seconds that one temporal patch (two frames) spans, for each video.
        learn_replies: Whether the earlier answers of the conversation are learnt as well as the target.
    """

    sample: Sample
    conversation: Conversation
    target: str | None
    videos: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    audios: list[Tensor] = field(default_factory=list)
    seconds_per_grid: list[float] = field(default_factory=list)
    learn_replies: bool = False


@dataclass
class Encoded:
    """The model inputs of one sample, without padding.

    Args:
        inputs: Model inputs; ``input_ids`` has shape ``(T,)``.
        labels: ``(T,)`` with -100 where nothing is learnt; ``None`` for a prompt.
        sample: The sample.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    sample: Sample


@dataclass
class Batch:
    """Padded model inputs of B samples.

    Args:
        inputs: Keyword arguments of the model's forward; ``input_ids`` and ``attention_mask`` are ``(B, T)``.
        labels: ``(B, T)`` with -100 where nothing is learnt; ``None`` for prompts to be answered.
        samples: The B samples, in order.
        repeated: True for samples that a sampler has repeated so that all processes have equally many.
            Metrics leave them out.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    samples: list[Sample]
    repeated: list[bool]

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return replace(
            self,
            inputs={k: v.to(device, non_blocking=non_blocking) for k, v in self.inputs.items()},
            labels=None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in page-locked memory. The data loader calls this."""
        return replace(
            self,
            inputs={k: v.pin_memory() for k, v in self.inputs.items()},
            labels=None if self.labels is None else self.labels.pin_memory(),
        )


@dataclass(frozen=True)
class CandidateScores:
    """The log-probabilities that a model gives to the answers of a closed set.

    Args:
        texts: The answers in the form in which the model would write them.
        log_probs: Log-probability of each answer in nats, summed over its tokens and the end token.
        tokens: Number of tokens of each answer with the end token.
    """

    texts: tuple[str, ...]
    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """The answer to one question: a generated text, the probabilities of a closed set of answers, or both.

    Args:
        sample: The question.
        text: The generated text without special tokens and surrounding whitespace; empty if there is none.
        tokens: Number of generated tokens.
        truncated: Whether the text ends at the token limit and not with the end token.
        candidates: The probabilities of the answers of a closed set; ``None`` if they were not computed.
    """

    sample: Sample
    text: str
    tokens: int = 0
    truncated: bool = False
    candidates: CandidateScores | None = None


def single_placeholder(conversation: Sequence[str | Media], media: Media) -> Conversation:
    """Return a conversation without all placeholders of one kind but the last, as the released code does."""
    last = max((i for i, part in enumerate(conversation) if part is media), default=-1)
    return tuple(p for i, p in enumerate(conversation) if p is not media or i == last)
