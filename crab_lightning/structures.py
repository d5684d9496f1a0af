"""The types that cross room borders, and the one legend of shapes and units.

Legend: B samples, T text tokens, F video frames, S audio samples (16 kHz), M mel frames (10 ms each),
P image patches, H and W pixels. Units stand in names: ``_s`` seconds, ``_hz``, ``_px``, ``_tokens``.
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
"""First turn of every AV-UIE v2 conversation (format section 2)."""

Split = Literal["train", "val", "test"]
TargetPolicy = Literal["reasoning", "direct"]
Decoding = Literal["generate", "likelihood", "both"]
"""How a question is answered: in the model's own words, by the likeliest answer of a closed set, or both."""


TEXT, VISUAL, AUDIO = 0, 1, 2
"""Modalities: what stands at a place of a language model's sequence."""


class Media(Enum):
    """A place in a conversation where a clip goes."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"


class Reply(str):
    """An earlier answer of the assistant within a conversation; what follows is the user's next turn."""

    __slots__ = ()


Conversation = tuple[str | Media, ...]
"""What is asked, in order: opening text, media, instruction; each earlier turn ends with a reply."""


@dataclass(frozen=True)
class AudioWindow:
    """Which part of the sound the model gets (AV-UIE v2 section 3).

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
    """Which pixels of a dataset's mask files are the object; give one of the two.

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
        columns: Which key of the file is which field, ``{media: {videos: clip}, fields: {event: label}}``: a
            whole column map, or what differs from the layout's; for ``messages``, ``plain`` and other
            classes, their settings.
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
        audio: Which part of the waveform is heard.
        clip_s: Length of the clips in whole seconds, for tasks that name times. Left out: the task's own
            ``clip_s``, which is 10.
        classes: Class names for closed-set tasks, in the metric's index order. Left out: the sorted
            names found in the manifests.
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
    """The stretch of a long clip that one question is about.

    Args:
        of: Id of the sample that stands for the whole clip.
        index: Number of the window in its clip, from 0.
        start_s: First second.
        end_s: End.
        whole_s: Length of the whole clip.
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
        id: Stable and unique, ``<dataset>/<key>``, equal between runs and machines.
        dataset: Key of its row under ``data.datasets``.
        task: Key of its task under ``data.tasks``.
        split: The split it is used in.
        clip: Identity of the recorded clip, shared by all datasets that use the same recording.
        videos: Video files in conversation order.
        images: Image files.
        audios: Audio files in conversation order.
        unit: Index of the audio unit heard with a single frame (``AudioWindow.kind == "one_unit"``).
        target: Supervised text of the manifest; ``None`` in a test manifest.
        reference: Reference string that the released test loader keeps; empty when it keeps none.
        fields: Annotation under the bridged names that the task documents, e.g. ``event``, ``start_s``.
        row: Zero-based row in its manifest, for messages.
        clips: Every recording that the sample uses, ``clip`` first; more than one in two-clip tasks. A split
            that keeps clips apart has to keep all of them on one side.
        conversation: The question as its own row asks it; the task's prompt where ``None``.
        window: The only stretch of the clip that is seen and heard; ``None`` for all of it.
        whole_s: Length of a long clip whose answer is stitched from its windows; the times of its truth and
            of its answer are then seconds of the whole clip. ``None`` for every other sample.
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
    """A sample with its media decoded and its text chosen: what a processor encodes.

    Args:
        sample: Where it comes from.
        conversation: The user's turn; it holds one placeholder for each entry of ``videos``, ``images``
            and ``audios``.
        target: Text to be learnt, ``None`` when only a prompt is wanted.
        videos: Frames, uint8 ``(F, 3, H, W)`` each.
        images: uint8 ``(3, H, W)`` each.
        audios: float32 ``(S,)`` each, 16 kHz, in [-1, 1].
        seconds_per_grid: Time that one temporal patch (two frames) spans, for each video.
        learn_replies: Whether the earlier answers of the conversation are learnt beside the target.
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
    """One sample as model inputs, unpadded.

    Args:
        inputs: Model inputs; ``input_ids`` has shape ``(T,)``.
        labels: ``(T,)`` with -100 where nothing is learnt; ``None`` for a prompt.
        sample: Where it comes from.
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
        repeated: True where a sampler repeated a sample to keep ranks equal; metrics skip those.
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
        """Return the batch with its tensors in page-locked memory; called by the data loader."""
        return replace(
            self,
            inputs={k: v.pin_memory() for k, v in self.inputs.items()},
            labels=None if self.labels is None else self.labels.pin_memory(),
        )


@dataclass(frozen=True)
class CandidateScores:
    """How likely a model finds each answer of a closed set.

    Args:
        texts: The answers as the model would write them.
        log_probs: Log-probability of each, in nats, summed over its tokens and the end token.
        tokens: Number of tokens of each, end token included.
    """

    texts: tuple[str, ...]
    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """One answer: written by the model, or weighed among the answers of a closed set, or both.

    Args:
        sample: The question.
        text: The answer, special tokens removed, outer whitespace stripped; empty where none was written.
        tokens: Number of generated tokens.
        truncated: True when the answer stopped at the token limit instead of the end token.
        candidates: The weighed answers; ``None`` where none were weighed.
    """

    sample: Sample
    text: str
    tokens: int = 0
    truncated: bool = False
    candidates: CandidateScores | None = None


def single_placeholder(conversation: Sequence[str | Media], media: Media) -> Conversation:
    """Drop every placeholder of one kind but the last, as the released two-clip fusion does."""
    last = max((i for i, part in enumerate(conversation) if part is media), default=-1)
    return tuple(p for i, p in enumerate(conversation) if p is not media or i == last)
