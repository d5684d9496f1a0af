"""The token counts and time scale of the visual and audio input, and checks of the media.

``released`` is the input on which the released adapter was trained (AV-UIE v2 section 3): frames of 224 x 224
pixels, 64 tokens and always 2.0 s for a pair of frames, whatever the length of the clip is. ``plain`` keeps
the size and the true time scale of the clip. An adapter that was trained with one of them gives wrong answers
with the other, without an error of the model. So sizes and times are checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from crab_lightning.media import mel_frames
from crab_lightning.structures import Example

Geometry = Literal["released", "plain"]

RELEASED_SIZE_PX = 224
# The released loader does not tell the model the sampled rate, so a pair of frames always stands for 2 s
# (AV-UIE v2 section 3).
RELEASED_SECONDS_PER_GRID = 2.0
PATCH_PX = 14
TEMPORAL_PATCH = 2
MERGE = 2
MAX_AUDIO_S = 300  # longest clip that the published feature extractor reads


class GeometryError(ValueError):
    """The model would get the media with a wrong size, length or speed."""


def checked_geometry(name: Geometry) -> Geometry:
    """Return the name of a geometry.

    Raises:
        ValueError: If there is no geometry with this name.
    """
    if name not in (known := get_args(Geometry)):
        raise ValueError(f"geometry is {name!r}; allowed: {', '.join(known)}")
    return name


def visual_tokens(frames: int, height_px: int, width_px: int, patch_px: int = PATCH_PX) -> int:
    """Return the number of language-model tokens of a video, or of an image (one frame)."""
    side = patch_px * MERGE
    return -(-frames // TEMPORAL_PATCH) * (height_px // side) * (width_px // side)


def audio_tokens(frames: int) -> int:
    """Return the number of language-model tokens for ``frames`` log-mel frames: 25 for each second."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True)
class MediaRules:
    """The division of media into tokens by a model architecture.

    Args:
        patch_px: Side of a patch of the vision tower in pixels.
        tokens_of_mel: Function that returns the number of language-model tokens for a number of log-mel
            frames.
        mirrored_end: Whether the sound is mirrored at its end for the spectrogram. With ``False``, zeros are
            added.
        whole_positions: Whether positions in time are rounded down to whole numbers.
    """

    patch_px: int = PATCH_PX
    tokens_of_mel: Callable[[int], int] = audio_tokens
    mirrored_end: bool = False
    whole_positions: bool = True

    @property
    def side_px(self) -> int:
        """The sides of frames and images must be multiples of this number of pixels."""
        return self.patch_px * MERGE

    def sound_tokens(self, samples: int) -> int:
        """Return the number of language-model tokens of a waveform with this number of samples."""
        frames = mel_frames(samples, mirrored_end=self.mirrored_end)
        return self.tokens_of_mel(frames) if frames else 0

    def visual_tokens(self, frames: int, height_px: int, width_px: int) -> int:
        """Return the number of language-model tokens of a video, or of an image (one frame)."""
        return visual_tokens(frames, height_px, width_px, self.patch_px)


QWEN2_5 = MediaRules()
"""Qwen2.5-Omni and Qwen2.5-VL."""


@dataclass(frozen=True)
class PlaceholderIds:
    """Token ids that stand for media in a prompt."""

    image: int
    video: int
    audio: int


def check_sizes(example: Example, geometry: Geometry, rules: MediaRules = QWEN2_5) -> None:
    """Check that frames and images have sizes which the model can read without resizing.

    Raises:
        GeometryError: If a size is not 224 x 224 with ``released``, or is not a multiple of the merged patch
            (28 pixels in Qwen2.5, 32 in Qwen3-Omni).
    """
    sizes = [("video", tuple(v.shape[-2:])) for v in example.videos]
    sizes += [("image", tuple(i.shape[-2:])) for i in example.images]
    side = rules.side_px
    for kind, (height, width) in sizes:
        if geometry == "released" and (height, width) != (RELEASED_SIZE_PX, RELEASED_SIZE_PX):
            raise GeometryError(
                f"{example.sample.id}: {kind} of {width} x {height} px under geometry 'released', which "
                f"expects {RELEASED_SIZE_PX} x {RELEASED_SIZE_PX}. Set the dataset's size_px to "
                f"{RELEASED_SIZE_PX}, or geometry to 'plain'."
            )
        if height % side or width % side or not height or not width:
            raise GeometryError(
                f"{example.sample.id}: {kind} of {width} x {height} px; both sides must be multiples of "
                f"{side} px, or the model would resize it. Set the dataset's size_px to a multiple of "
                f"{side}."
            )


def seconds_per_grid(example: Example, geometry: Geometry) -> list[float]:
    """Return the time in seconds that a pair of frames stands for, for each video.

    Raises:
        GeometryError: If the time scale of the example is not that of the geometry, or is missing with
            ``plain``.
    """
    given = example.seconds_per_grid
    if geometry == "released":
        wrong = [s for s in given if s != RELEASED_SECONDS_PER_GRID]
        if wrong:
            raise GeometryError(
                f"{example.sample.id}: {wrong[0]} s per grid under geometry 'released', which expects "
                f"{RELEASED_SECONDS_PER_GRID}. Use geometry 'plain' for the true time scale of the clip."
            )
        return [RELEASED_SECONDS_PER_GRID] * len(example.videos)
    if len(given) != len(example.videos) or any(s <= 0 for s in given):
        raise GeometryError(
            f"{example.sample.id}: geometry 'plain' needs one positive number of seconds per grid for each "
            f"of the {len(example.videos)} videos, found {given}."
        )
    return list(given)
