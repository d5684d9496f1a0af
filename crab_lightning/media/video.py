"""Reads frames of a video file into tensors, sampled evenly over the whole file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter
from torch import Tensor
from torch.nn import functional

from crab_lightning.media.container import DEFAULT_LIMITS, MediaLimits
from crab_lightning.media.errors import UnreadableMedia
from crab_lightning.media.pick import pick_frames, pick_shown

Resizer = Literal["torch", "torch_uint8", "swscale"]
Access = Literal["index", "sequential"]


@dataclass(frozen=True)
class VideoClip:
    """Frames of one video file.

    Args:
        frames: uint8 RGB ``(F, 3, H, W)``.
        times_s: float64 ``(F,)``, the time of each frame in seconds from the beginning of the clip, which is
            also the first sample of ``read_audio``. The clip begins with the first frame, unless the sound
            begins earlier.
        duration_s: Time in seconds from the start of the first frame to the end of the last frame.
        total_frames: Number of frames in the file.
        lost_frames: Number of damaged frames that the decoder left out, as far as this was noticed; at most 2
            %.
    """

    frames: Tensor
    times_s: Tensor
    duration_s: float
    total_frames: int
    lost_frames: int = 0


def frame_indices(total: int, frames: int) -> list[int]:
    """Return ``round(linspace(0, total - 1, frames))``. Indices are repeated if the clip has fewer frames."""
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
    """Read frames that are spread evenly over the whole file (AV-UIE v2 section 3).

    If a clip has fewer frames than wanted, some are repeated. If there are several tracks, the one that
    players show is read. A display matrix in the header (a phone that was turned, a mirrored picture) is
    applied.

    Args:
        path: Any container with a video track.
        frames: Number of frames F.
        size_px: Height and width of the resized frames in pixels; ``None`` keeps the size in the file.
        resize: ``torch`` resizes in float32 with antialiased bicubic filtering, exactly as for the released
            checkpoints. ``torch_uint8`` does the same with integers, which is faster; values differ by about
            0.1 of 255. With ``swscale``, the colour converter resizes; values differ by about 0.9 of 255.
        access: ``index`` decodes only the packets that the wanted frames need. ``sequential`` decodes the
            whole file. Both give exactly the same frames.
        limits: Limits on what is read.

    Raises:
        ValueError: If ``frames`` or ``size_px`` is not positive, or ``resize`` or ``access`` is another word.
        MissingMedia: If there is no such file.
        NoVideoTrack: If the file has no moving pictures.
        EmptyMedia: If the file or the track is empty.
        TruncatedMedia: If the file ends before its declared end.
        UnreadableMedia: If the file is not a media file, more than 2 % of its frames cannot be decoded, or
            their size changes while ``size_px`` is ``None``.
        MediaTooLarge: If the file exceeds ``limits``.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}; at least one frame is needed.")
    if size_px is not None and size_px < 1:
        raise ValueError(f"size_px is {size_px}; it must be positive, or None to keep the size.")
    picked = pick_frames(
        path,
        lambda total: frame_indices(total, frames),
        frame_converter(size_px, resize),
        access=access,
        limits=limits,
    )
    return VideoClip(
        frames=stacked(path, [picked.pictures[index] for index in picked.indices]),
        times_s=torch.tensor([picked.times_s[index] for index in picked.indices], dtype=torch.float64),
        duration_s=picked.duration_s,
        total_frames=picked.total,
        lost_frames=picked.lost_frames,
    )


def stacked(path: str | Path, pictures: Sequence[Tensor]) -> Tensor:
    """Return pictures of a file as one tensor ``(F, 3, H, W)``.

    Raises:
        UnreadableMedia: If the pictures have different sizes.
    """
    if len({picture.shape for picture in pictures}) > 1:
        raise UnreadableMedia(
            path, "changes its picture size midway; give size_px, so that all frames get the same size."
        )
    return torch.stack(list(pictures))


def read_frame_at(
    path: str | Path,
    moment_s: float,
    *,
    access: Access = "index",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> tuple[Tensor, float]:
    """Read the frame that is shown at a moment, in full size.

    Args:
        path: Any container with a video track.
        moment_s: Time in seconds from the beginning of the clip. Before the first frame, the first one is
            read, and after the last frame, the last one.
        access: As for :func:`read_video`.
        limits: Limits on what is read.

    Returns:
        uint8 RGB ``(3, H, W)``, and the time in seconds at which this frame appears.

    Raises:
        MediaError: Under the conditions of :func:`read_video`.
    """
    return pick_shown(path, moment_s, frame_converter(None, "torch"), access=access, limits=limits)


def stretch(pictures: Tensor, size_px: int, *, exact: bool = True) -> Tensor:
    """Resize pictures to a square with an antialiased bicubic filter. The aspect ratio is not kept.

    Args:
        pictures: uint8 ``(F, C, H, W)``. The memory format with channels last is the fastest.
        size_px: Height and width of the result in pixels.
        exact: Filter in float32 and round once, as ``resize`` of ``torchvision.transforms`` with
            ``antialias=True`` and the released checkpoints do. With ``False``, the integer kernel of torch is
            used, which equals ``torchvision.transforms.v2`` on a CPU with AVX2. It is 4 to 5 times as fast,
            and on real clips values differ by 0.1 on average and by at most 4.

    Returns:
        uint8 ``(F, C, size_px, size_px)``.
    """
    if tuple(pictures.shape[-2:]) == (size_px, size_px):
        return pictures
    stretched = functional.interpolate(
        pictures.float() if exact else pictures,
        size=(size_px, size_px),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    # A bicubic filter overshoots at edges, and 256 would become 0 as uint8. The integer kernel clamps by
    # itself.
    return stretched.clamp_(0, 255).round_().to(torch.uint8) if exact else stretched


def frame_converter(size_px: int | None, resize: Resizer) -> Callable[[Any], Tensor]:
    """Return a function that makes a uint8 tensor ``(3, H, W)`` from a decoded frame.

    Raises:
        ValueError: If ``resize`` is not the name of a method.
    """
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
        # Channels stay last in memory until the frame is resized, which is fastest for the kernels of torch.
        picture = torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)
        picture = _upright(picture, frame)
        if size_px is not None:
            picture = stretch(picture[None], size_px, exact=resize == "torch")[0]
        return picture.contiguous()

    return convert


def _upright(picture: Tensor, frame: Any) -> Tensor:
    """Turn and mirror a picture ``(3, H, W)`` as the display matrix of the frame says.

    The matrix maps a point (x, y) of the stored picture to (a x + c y, b x + d y) on the screen. Players know
    eight orientations of a picture, and any other matrix is treated as the nearest of these.
    """
    side = frame.side_data.get(SideData.DISPLAYMATRIX)
    if side is None or len(data := bytes(side)) < 20:
        return picture
    a, b, _, c, d = struct.unpack("=5i", data[:20])
    if max(abs(b), abs(c)) > max(abs(a), abs(d)):  # rows become columns
        picture, from_x, from_y = picture.transpose(1, 2), c, b
    else:
        from_x, from_y = a, d
    mirrored = [dim for dim, sign in ((2, from_x), (1, from_y)) if sign < 0]
    return picture.flip(mirrored) if mirrored else picture
