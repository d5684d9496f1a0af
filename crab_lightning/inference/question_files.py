"""The files of a question: checks of a user's clips, and the picture and silence that a question needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from crab_lightning.media import (
    UnreadableMedia,
    is_picture,
    probe,
    read_audio,
    read_frame_at,
    write_audio,
    write_upright,
)
from crab_lightning.structures import SAMPLE_RATE_HZ, DatasetSpec

SILENT_AND_AUDIO = "`silent` replaces all sound by silence, so it cannot be given with `audio`"


class AskError(ValueError):
    """A question cannot be asked, because a file, text or task is missing or is too many.

    The message names arguments in backquotes, as in Python. :meth:`as_options` writes them as options.
    """

    def as_options(self) -> AskError:
        """Return the error with option names: ``--question``."""
        return AskError(re.sub(r"`(\w+)`", r"--\1", str(self)))


def check_clips(videos: Sequence[Path], audio: Path | None, *, silent: bool) -> None:
    """Check the clips of a user before anything is loaded.

    Args:
        videos: Clips, which must have pictures. They also need sound, unless ``audio`` or ``silent`` replaces
            it.
        audio: Sound file of the first clip.
        silent: Replace all sound with silence.

    Raises:
        AskError: If a file has no pictures or no sound, or ``silent`` and ``audio`` are given together.
        MediaError: If a file cannot be read.
    """
    if silent and audio is not None:
        raise AskError(SILENT_AND_AUDIO)
    for place, path in enumerate(videos):
        check_clip(path, "video")
        if not silent:
            check_clip(audio if audio is not None and place == 0 else path, "audio")


def check_clip(path: Path, kind: Literal["video", "audio"], picture_goes_to: str = "") -> None:
    """Check that a file has the moving pictures or the sound for which it was given.

    Args:
        path: The file.
        kind: The argument as which the file was given.
        picture_goes_to: The argument that accepts a picture, for the message.

    Raises:
        AskError: If the file is a picture, or has no moving pictures or no sound.
        MediaError: If the file cannot be read.
    """
    try:
        info = probe(path)
    except UnreadableMedia:
        if not is_picture(path):
            raise
        remedy = f"give it as {picture_goes_to}" if picture_goes_to else f"this task needs a file with {kind}"
        raise AskError(f"{path} is a picture and was given as `{kind}`; {remedy}") from None
    if kind == "video" and not info.has_video:
        raise AskError(f"{path} contains no moving pictures; give a video as `video`, and sound as `audio`")
    if kind == "audio" and not info.has_audio:
        raise AskError(
            f"{path} has no sound. Give a sound file as `audio`, or give `silent` to ask with silence."
        )


def write_silence(videos: Sequence[Path], spec: DatasetSpec, scratch: Path) -> Path:
    """Write silence as long as the first video, or of one second for every audio unit without a video."""
    length_s = float(spec.audio.units)
    if videos:
        length_s = probe(videos[0]).duration_s or length_s
    path = scratch / "silence.wav"
    write_audio(path, torch.zeros(max(1, round(length_s * SAMPLE_RATE_HZ))))
    return path


def picture_of(
    spec: DatasetSpec,
    image: Path | None,
    videos: Sequence[Path],
    audio: Path | None,
    at_s: float | None,
    scratch: Path,
) -> tuple[Path, int | None]:
    """Return the picture of an image task, and the number of the audio unit that belongs to it.

    Args:
        spec: Entry of the dataset in the config.
        image: Picture of the user. If ``None``, a frame of the first video is used.
        videos: Video files.
        audio: Sound file, if there is one.
        at_s: Second of the clip that is shown. If ``None``, the middle of the clip.
        scratch: Folder for the picture.

    Raises:
        AskError: If there is neither a picture nor a video, or ``at_s`` is not in the clip.
    """
    if image is None and not videos:
        raise AskError(f"task {spec.task} needs `image` or `video`")
    samples = 0 if audio is None else len(read_audio(audio))
    shown_s = [probe(video).duration_s or 0.0 for video in videos[:1]]
    duration_s = max([samples / SAMPLE_RATE_HZ, *shown_s])
    moment_s = duration_s / 2 if at_s is None else at_s
    if not 0 <= moment_s <= duration_s:
        raise AskError(f"`at_s` {moment_s:g}: the clip lasts {duration_s:g} s")
    if image is None:
        image = _frame(videos[0], moment_s, scratch)
    else:  # turned upright, as a picture viewer shows it; pictures of manifests are used as they are stored
        image = write_upright(image, scratch / "upright.png")
    if spec.audio.kind != "one_unit" or audio is None:
        return image, None
    unit_samples = max(samples, SAMPLE_RATE_HZ) // spec.audio.units  # as the window cuts them
    return image, min(int(moment_s * SAMPLE_RATE_HZ / unit_samples), spec.audio.units - 1)


def _frame(video: Path, moment_s: float, scratch: Path) -> Path:
    """Write the frame that is shown at a moment, at full size, and return its path."""
    frame, _ = read_frame_at(video, moment_s)
    path = scratch / "frame.png"
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)
    return path
