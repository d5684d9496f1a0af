"""One sample's files to tensors, as its dataset's row and the geometry ask."""

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
    """A sample cannot be loaded; the message names its dataset, id, manifest row and file."""


@dataclass
class LoadedMedia:
    """Decoded media of one sample, in conversation order.

    Args:
        videos: Frames, uint8 ``(F, 3, H, W)`` each.
        images: uint8 ``(3, H, W)`` each.
        audios: float32 ``(S,)`` each.
        seconds_per_grid: Time that a pair of frames spans, for each video.
    """

    videos: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    audios: list[Tensor] = field(default_factory=list)
    seconds_per_grid: list[float] = field(default_factory=list)


def heard_window(spec: DatasetSpec, geometry: Geometry) -> AudioWindow:
    """Return the window of a row under a geometry.

    ``plain`` hears whole clips: the released windows cut seconds off that its time scale accounts for. A
    single unit stays, since it is the second that belongs to the single frame.
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
    """Decode a sample's files; never more than one clip's frames are held beside those it returns.

    Under ``released`` two videos become one and two waveforms become one, first clip first (section 2 of the
    format). Under ``plain`` they stay apart.

    Args:
        sample: The sample.
        spec: Its dataset's row.
        geometry: What the processor expects.
        cache: Where decoded media are kept; a cached sample equals a decoded one bit for bit.
        limits: Bounds on what is read of one file.
        resize: How frames are stretched; ``torch`` as the released checkpoints saw them.

    Raises:
        MediaError: If a file is missing or broken.
        AudioWindowError: If a waveform does not hold the part its window asks for.
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
    """Return a sample as a processor takes it; clips that the geometry fuses into one have one placeholder.

    Args:
        sample: The sample.
        conversation: Its question.
        loaded: Its decoded media.
        geometry: What the processor expects.
        target: Text to be learnt.
        learn_replies: Whether earlier answers are learnt, too.

    Raises:
        ValueError: If clips of several turns would be fused, or there is not one placeholder for each medium.
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
    """Replace a modality by silence, or by mid-grey pictures, of the same shape.

    The model then gets the same prompt with the same number of tokens at the same positions, so a drop in
    score is due to what was in the clip and not to a shorter input that it never met in training. The files
    are decoded all the same: with and without the modality the same samples are scored.
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
        # Errors about a waveform or of the operating system do not all say which file they are about.
        if str(path) not in str(err):
            err.add_note(f"while reading {path}")
        raise


def _joined(clips: Sequence[Tensor]) -> list[Tensor]:
    return [torch.cat(list(clips))] if len(clips) > 1 else list(clips)
