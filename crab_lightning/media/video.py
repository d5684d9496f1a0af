"""Frames of a video file to tensors, sampled evenly over the whole file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from crab_lightning.media.container import DEFAULT_LIMITS, MediaLimits
from crab_lightning.media.errors import UnreadableMedia
from crab_lightning.media.pick import pick_frames
from crab_lightning.media.resize import stretch

Resizer = Literal["torch", "torch_uint8", "swscale"]
Access = Literal["index", "sequential"]


@dataclass(frozen=True)
class VideoClip:
    """Frames of one video file.

    Args:
        frames: uint8 RGB ``(F, 3, H, W)``.
        times_s: float64 ``(F,)``; when each frame is shown, counted from the first frame of the file.
        duration_s: From the first frame's start to the last frame's end.
        total_frames: Number of frames in the file.
        lost_frames: Damaged frames that the decoder left out, as far as they were noticed; at most 2 %.
    """

    frames: Tensor
    times_s: Tensor
    duration_s: float
    total_frames: int
    lost_frames: int = 0


def frame_indices(total: int, frames: int) -> list[int]:
    """Return ``round(linspace(0, total - 1, frames))``; indices repeat when the clip has fewer frames."""
    picked: list[int] = torch.linspace(0, total - 1, frames, dtype=torch.float64).round().long().tolist()
    return picked


def read_video(
    path: str | Path,
    frames: int,
    size_px: int | None = 224,
    *,
    resize: Resizer = "torch",
    access: Access = "index",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> VideoClip:
    """Read frames spread evenly over the whole file (AV-UIE v2 section 3).

    A clip with fewer frames than asked repeats some of them. A rotation in the header is applied.

    Args:
        path: Any container with a video track.
        frames: Number of frames F.
        size_px: Side of the square that frames are stretched to; ``None`` keeps the file's size.
        resize: ``torch`` stretches in float32 with antialiased bicubic filtering, exactly as the released
            checkpoints were trained; ``torch_uint8`` does so in integers, faster and about 0.1/255 apart;
            ``swscale`` lets the colour converter stretch, about 0.9/255 apart.
        access: ``index`` decodes only what the wanted frames need; ``sequential`` decodes the whole file.
            Both give the same frames, bit for bit.
        limits: Bounds on what is read.

    Raises:
        ValueError: If ``frames`` or ``size_px`` is not positive.
        NoVideoTrack: If the file has no moving pictures.
        EmptyMedia: If the track has no frame.
        TruncatedMedia: If the file ends before its declared end.
        UnreadableMedia: If more than 2 % of the frames cannot be decoded, or they change size while
            ``size_px`` is None.
        MediaTooLarge: If it exceeds ``limits``.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}; at least one frame is needed.")
    if size_px is not None and size_px < 1:
        raise ValueError(f"size_px is {size_px}; it must be positive, or None to keep the size.")
    picked = pick_frames(
        path,
        lambda total: frame_indices(total, frames),
        _converter(size_px, resize),
        access=access,
        limits=limits,
    )
    if len({picture.shape for picture in picked.pictures.values()}) > 1:
        raise UnreadableMedia(
            path, "changes its picture size midway; give size_px to stretch all frames alike."
        )
    return VideoClip(
        frames=torch.stack([picked.pictures[index] for index in picked.indices]),
        times_s=torch.tensor([picked.times_s[index] for index in picked.indices], dtype=torch.float64),
        duration_s=picked.duration_s,
        total_frames=picked.total,
        lost_frames=picked.lost_frames,
    )


def _converter(size_px: int | None, resize: Resizer) -> Callable[[Any], Tensor]:
    """Return a function from a decoded frame to uint8 ``(3, H, W)``; it keeps one scaler for all frames."""
    if resize not in get_args(Resizer):
        raise ValueError(f"resize is {resize!r}; allowed: {', '.join(get_args(Resizer))}.")
    scaler = VideoReformatter()

    def convert(frame: Any) -> Tensor:
        in_swscale = resize == "swscale" and size_px is not None
        rgb = scaler.reformat(
            frame,
            width=size_px if in_swscale else frame.width,
            height=size_px if in_swscale else frame.height,
            format="rgb24",
            interpolation="BICUBIC" if in_swscale else None,
        )
        # Channels stay last in memory until stretched: torch's kernels are fastest on that.
        picture = torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)
        quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise
        if quarter_turns:
            picture = torch.rot90(picture, quarter_turns, (1, 2))
        if size_px is not None:
            picture = stretch(picture[None], size_px, exact=resize == "torch")[0]
        return picture.contiguous()

    return convert
