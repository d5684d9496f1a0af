"""Decodes the files of one sample to tensors, with the settings of its dataset and the geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from crab_lightning import media
from crab_lightning.data.cache.recipes import Decoded, Recipe, plan
from crab_lightning.data.cache.store import MediaCache
from crab_lightning.processing import Geometry
from crab_lightning.processing.base import check_media
from crab_lightning.processing.geometry import RELEASED_SECONDS_PER_GRID
from crab_lightning.structures import (
    AudioWindow,
    Conversation,
    DatasetSpec,
    Example,
    Media,
    Reply,
    Sample,
    single_placeholder,
)

DropModality = Literal["audio", "vision"]

MID_GREY = 128


class SampleError(ValueError):
    """A sample cannot be loaded. The message names its dataset, id and manifest row, and the error."""


@dataclass
class LoadedMedia:
    """The decoded media of one sample, in the order of the conversation.

    Args:
        videos: Frames of each video, uint8 ``(F, 3, H, W)``.
        images: Pictures, uint8 ``(3, H, W)`` each.
        audios: Sounds, float32 ``(S,)`` each, at 16 kHz.
        seconds_per_grid: For each video, the time in seconds that a pair of frames stands for.
    """

    videos: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    audios: list[Tensor] = field(default_factory=list)
    seconds_per_grid: list[float] = field(default_factory=list)


def heard_window(spec: DatasetSpec, geometry: Geometry) -> AudioWindow:
    """Return the audio window of a dataset for a geometry.

    With ``plain``, the whole sound is heard, because its time scale is that of the whole clip. Only a window
    of one unit stays, since this unit belongs to the single frame.
    """
    if geometry == "released" or spec.audio.kind == "one_unit":
        return spec.audio
    return replace(spec.audio, kind="all")


def load_media(
    sample: Sample,
    spec: DatasetSpec,
    geometry: Geometry,
    cache: MediaCache | None = None,
    limits: media.MediaLimits | None = None,
    resize: media.Resizer = "torch",
) -> LoadedMedia:
    """Decode the files of a sample.

    With ``released``, two videos are joined into one and two sounds into one, in their order. With ``plain``
    they stay separate. At most the frames of one more clip are in memory than those that are returned.

    Args:
        sample: The sample.
        spec: Entry of its dataset in the config.
        geometry: The geometry of the processor.
        cache: Cache of decoded media. A cached sample is bit-identical to a decoded one.
        limits: Limits on what is read of one file.
        resize: How frames are resized. ``torch`` does it as for the released checkpoints.

    Raises:
        MediaError: If a file is missing or damaged.
        AudioWindowError: If a sound does not contain the part of its window.
    """
    limits = limits or media.MediaLimits()

    def read(path: Path, recipe: Recipe) -> Decoded:
        with _named(path):
            return recipe.decode(path, limits) if cache is None else cache.read(path, recipe, limits)

    needed = plan(sample, spec, heard_window(spec, geometry), resize)
    loaded = LoadedMedia()
    for path, recipe in needed.videos:
        clip = read(path, recipe)
        loaded.videos.append(clip.tensor)
        loaded.seconds_per_grid.append(2 * clip.duration_s / len(clip.tensor))
    loaded.images = [read(path, recipe).tensor for path, recipe in needed.images]
    loaded.audios = [read(path, recipe).tensor for path, recipe in needed.audios]
    if geometry == "released":
        loaded.videos = _joined(loaded.videos)
        loaded.audios = _joined(loaded.audios)
        loaded.seconds_per_grid = [RELEASED_SECONDS_PER_GRID] * len(loaded.videos)
    return loaded


def example_of(
    sample: Sample,
    conversation: Conversation,
    loaded: LoadedMedia,
    geometry: Geometry,
    target: str | None = None,
    *,
    learn_replies: bool = False,
) -> Example:
    """Return a sample as the input of a processor. Clips that the geometry joins get one placeholder.

    Args:
        sample: The sample.
        conversation: The question of the sample.
        loaded: The decoded media of the sample.
        geometry: The geometry of the processor.
        target: Target text, if the sample is used for training.
        learn_replies: Whether earlier answers in the conversation are also learnt.

    Raises:
        ValueError: If clips of several turns would be joined, or the placeholders do not fit the media.
    """
    if geometry == "released":
        several = any(conversation.count(kind) > 1 for kind in (Media.VIDEO, Media.AUDIO))
        if several and any(isinstance(part, Reply) for part in conversation):
            raise ValueError(
                "a conversation of several turns contains several videos or sounds, which the geometry "
                "'released' joins into one; set data.geometry and the model's geometry to 'plain'"
            )
        for kind in (Media.VIDEO, Media.AUDIO):
            conversation = single_placeholder(conversation, kind)
    example = Example(sample, conversation, target, **vars(loaded), learn_replies=learn_replies)
    check_media(example)
    return example


def without(loaded: LoadedMedia, modality: DropModality) -> LoadedMedia:
    """Replace the sound with silence, or the pictures with grey, of the same shape.

    The model gets the same prompt with the same number of tokens at the same positions. So a lower score is
    caused by the content of the clip, and not by a shorter input. The files are decoded in both cases, so
    that the same samples are scored.
    """
    if modality == "audio":
        return replace(loaded, audios=[torch.zeros_like(audio) for audio in loaded.audios])
    return replace(
        loaded,
        videos=[torch.full_like(video, MID_GREY) for video in loaded.videos],
        images=[torch.full_like(image, MID_GREY) for image in loaded.images],
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        # Some errors about a sound or of the operating system do not name the file.
        if str(path) not in str(err):
            err.add_note(f"while reading {path}")
        raise


def _joined(clips: Sequence[Tensor]) -> list[Tensor]:
    return [torch.cat(list(clips))] if len(clips) > 1 else list(clips)
