"""Audio, video and image files to tensors and back; the only room that knows codecs and sample rates."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crab_lightning.media.errors import (
    AudioWindowError,
    EmptyMedia,
    MediaError,
    MediaTooLarge,
    MissingMedia,
    NoAudioTrack,
    NoVideoTrack,
    TruncatedMedia,
    UnreadableMedia,
)

if TYPE_CHECKING:
    from crab_lightning.media.audio import read_audio
    from crab_lightning.media.container import MediaInfo, MediaLimits, decoder_versions, probe
    from crab_lightning.media.image import read_image, read_mask
    from crab_lightning.media.mel import MEL_BINS, log_mel, mel_frames
    from crab_lightning.media.resize import stretch
    from crab_lightning.media.video import Resizer, VideoClip, frame_indices, read_video
    from crab_lightning.media.window import apply_window
    from crab_lightning.media.write import write_audio, write_video

# PyAV and Pillow load only when a name that needs them is used.
_HOMES = {
    "MEL_BINS": "mel",
    "MediaInfo": "container",
    "MediaLimits": "container",
    "Resizer": "video",
    "VideoClip": "video",
    "apply_window": "window",
    "decoder_versions": "container",
    "frame_indices": "video",
    "log_mel": "mel",
    "mel_frames": "mel",
    "probe": "container",
    "read_audio": "audio",
    "read_image": "image",
    "read_mask": "image",
    "read_video": "video",
    "stretch": "resize",
    "write_audio": "write",
    "write_video": "write",
}

__all__ = [
    "MEL_BINS",
    "AudioWindowError",
    "EmptyMedia",
    "MediaError",
    "MediaInfo",
    "MediaLimits",
    "MediaTooLarge",
    "MissingMedia",
    "NoAudioTrack",
    "NoVideoTrack",
    "Resizer",
    "TruncatedMedia",
    "UnreadableMedia",
    "VideoClip",
    "apply_window",
    "decoder_versions",
    "frame_indices",
    "log_mel",
    "mel_frames",
    "probe",
    "read_audio",
    "read_image",
    "read_mask",
    "read_video",
    "stretch",
    "write_audio",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
