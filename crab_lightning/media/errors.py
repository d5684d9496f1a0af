"""Errors about media files. Every message names the file, what was found and what to do."""

from __future__ import annotations

from pathlib import Path


class MediaError(ValueError):
    """A media file cannot be used as asked.

    Args:
        path: The file.
        message: What was found and what to do, in one or two sentences.
    """

    def __init__(self, path: str | Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = Path(path)
        self._message = message

    def __reduce__(self) -> tuple[type[MediaError], tuple[Path, str]]:
        # Pickle, which sends exceptions from loader workers, would call __init__ with the joined text.
        return type(self), (self.path, self._message)


class MissingMedia(MediaError):
    """The file does not exist, or is a folder, a pipe or a device."""


class EmptyMedia(MediaError):
    """The file has zero bytes, or a stream without a single frame or sample."""


class UnreadableMedia(MediaError):
    """The file cannot be decoded."""


class TruncatedMedia(MediaError):
    """The file ends before the end that its header declares."""


class NoVideoTrack(MediaError):
    """The file has no moving pictures, but frames are needed."""


class NoAudioTrack(MediaError):
    """The file has no audio track, but sound is needed."""


class MediaTooLarge(MediaError):
    """The file exceeds a limit of ``MediaLimits``."""


class AudioWindowError(ValueError):
    """A waveform does not contain the part of its audio window, or the window is not valid."""
