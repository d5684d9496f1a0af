"""Decode each medium of a sample to a tensor, and name the settings on which a cached record depends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crab_lightning import media
from crab_lightning.structures import SAMPLE_RATE_HZ, AudioWindow, DatasetSpec, Sample

# Increase this if decoding gives other values for the same file, so that earlier records are not used.
# 2: sound on the clock of the pictures and resampled by soxr; display matrices; pictures of 16 bits
_VERSION = 2


@dataclass(frozen=True)
class Decoded:
    """One decoded medium, as the models get it.

    Args:
        tensor: uint8 ``(F, 3, H, W)`` frames, uint8 ``(3, H, W)`` picture, or float32 ``(S,)`` sound.
        duration_s: Length of the clip or span in seconds for frames; 0 for pictures and sound.
    """

    tensor: Tensor
    duration_s: float = 0.0


@dataclass(frozen=True)
class VideoRecipe:
    """Decodes frames that are spread evenly over a clip.

    Args:
        frames: Number of frames.
        size_px: Height and width of the resized frames in pixels.
        resize: How frames are resized; see ``read_video``.
        span_s: Start and end in seconds of the part that is read; ``None`` for the whole clip.
    """

    frames: int
    size_px: int
    resize: media.Resizer = "torch"
    span_s: tuple[float, float] | None = None

    def decode(self, path: Path, limits: media.MediaLimits) -> Decoded:
        """Decode a file."""
        if self.span_s is not None:
            start_s, end_s = self.span_s
            frames = media.read_video_piece(
                path, start_s, end_s, self.frames, self.size_px, resize=self.resize, limits=limits
            )
            return Decoded(frames, end_s - start_s)
        clip = media.read_video(path, self.frames, self.size_px, resize=self.resize, limits=limits)
        return Decoded(clip.frames, clip.duration_s)

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a cached tensor can come from this recipe, by its type and shape."""
        return tensor.dtype == torch.uint8 and tensor.shape == (self.frames, 3, self.size_px, self.size_px)

    def name(self) -> str:
        """Return a text with all settings and versions on which a record depends, except the file."""
        how = "" if self.resize == "torch" else f" {self.resize}"
        how += _span_name(self.span_s)
        return f"{_VERSION} {media.decoder_versions()} video {self.frames} {self.size_px}{how}"


@dataclass(frozen=True)
class ImageRecipe:
    """Decodes a picture.

    Args:
        size_px: Height and width of the resized picture in pixels.
    """

    size_px: int

    def decode(self, path: Path, limits: media.MediaLimits) -> Decoded:
        """Decode a file."""
        return Decoded(media.read_image(path, self.size_px, limits=limits))

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a cached tensor can come from this recipe, by its type and shape."""
        return tensor.dtype == torch.uint8 and tensor.shape == (3, self.size_px, self.size_px)

    def name(self) -> str:
        """Return a text with all settings and versions on which a record depends, except the file."""
        return f"{_VERSION} {media.decoder_versions()} image {self.size_px}"


@dataclass(frozen=True)
class AudioRecipe:
    """Decodes the part of a sound file that is heard. Only this part is kept in the cache.

    Args:
        window: The part that is heard.
        unit: Index of the audio unit for a window of kind ``one_unit``.
        span_s: Start and end in seconds of the part that is read like a whole clip; ``None`` for the whole
            clip.
    """

    window: AudioWindow
    unit: int | None
    span_s: tuple[float, float] | None = None

    def decode(self, path: Path, limits: media.MediaLimits) -> Decoded:
        """Decode a file."""
        if self.span_s is None:
            sound = media.read_audio(path, limits=limits)
        else:
            sound = _piece(path, *self.span_s, limits)
        return Decoded(media.apply_window(sound, self.window, self.unit))

    def fits(self, tensor: Tensor) -> bool:
        """Return whether a cached tensor can come from this recipe, by its type and shape."""
        return tensor.dtype == torch.float32 and tensor.ndim == 1

    def name(self) -> str:
        """Return a text with all settings and versions on which a record depends, except the file."""
        w = self.window
        heard = {
            "all": "all",
            "units": f"units {w.units}",
            "one_unit": f"unit {self.unit} of {w.units}",
            "head": f"head {w.head_s}",
            "strided": f"strided {w.units} {w.every} {w.before} {w.after}",
        }[w.kind]
        span = "" if self.span_s is None else f"{_span_name(self.span_s)} by soxr"
        return f"{_VERSION} {media.decoder_versions()} audio {heard}{span}"


def _span_name(span_s: tuple[float, float] | None) -> str:
    return "" if span_s is None else f" from {span_s[0]!r} to {span_s[1]!r} s"


def _piece(path: Path, start_s: float, end_s: float, limits: media.MediaLimits) -> Tensor:
    """Read a part of a sound, with silence after the end of the track."""
    samples = round((end_s - start_s) * SAMPLE_RATE_HZ)
    try:
        sound = media.read_audio_piece(path, start_s, end_s, limits=limits)
    except media.EmptyMedia:
        sound = torch.zeros(0)
    return torch.nn.functional.pad(sound, (0, max(0, samples - len(sound))))


Recipe = VideoRecipe | ImageRecipe | AudioRecipe


@dataclass(frozen=True)
class Plan:
    """The files of one sample and how each is decoded, in the order of the conversation."""

    videos: tuple[tuple[Path, VideoRecipe], ...]
    images: tuple[tuple[Path, ImageRecipe], ...]
    audios: tuple[tuple[Path, AudioRecipe], ...]


def plan(sample: Sample, spec: DatasetSpec, window: AudioWindow, resize: media.Resizer = "torch") -> Plan:
    """Return the files of a sample and how each is decoded.

    Args:
        sample: The sample.
        spec: Entry of its dataset in the config.
        window: The part of the sound that is heard.
        resize: How frames are resized.
    """
    unit = sample.unit if window.kind == "one_unit" else None
    span_s = None if sample.window is None else (sample.window.start_s, sample.window.end_s)
    return Plan(
        tuple((path, VideoRecipe(spec.frames, spec.size_px, resize, span_s)) for path in sample.videos),
        tuple((path, ImageRecipe(spec.size_px)) for path in sample.images),
        tuple((path, AudioRecipe(window, unit, span_s)) for path in sample.audios),
    )
