"""Frames of a video file to tensors, sampled evenly over the whole file."""

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
        times_s: float64 ``(F,)``; when each frame is shown, counted from the beginning of the clip, which is
            also the first sample of ``read_audio``. That is the first frame, unless the sound begins earlier.
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

    A clip with fewer frames than asked repeats some of them. Of several tracks, the one that players show is
    read. A display matrix in the header (a phone that was turned, a mirrored picture) is applied.

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
        UnreadableMedia: If they differ in size.
    """
    if len({picture.shape for picture in pictures}) > 1:
        raise UnreadableMedia(
            path, "changes its picture size midway; give size_px to stretch all frames alike."
        )
    return torch.stack(list(pictures))


def read_frame_at(
    path: str | Path,
    moment_s: float,
    *,
    access: Access = "index",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> tuple[Tensor, float]:
    """Read the frame that is shown at a moment, at the size that it has.

    Args:
        path: Any container with a video track.
        moment_s: Time in seconds from the beginning of the clip. Before the first frame that one is taken,
            behind the last frame that one.
        access: As for :func:`read_video`.
        limits: Bounds on what is read.

    Returns:
        uint8 RGB ``(3, H, W)``, and the time at which this frame appears.

    Raises:
        MediaError: As :func:`read_video`.
    """
    return pick_shown(path, moment_s, frame_converter(None, "torch"), access=access, limits=limits)


def stretch(pictures: Tensor, size_px: int, *, exact: bool = True) -> Tensor:
    """Stretch uint8 pictures ``(F, C, H, W)`` to ``(F, C, size_px, size_px)``, bicubic with antialias.

    The aspect ratio is ignored.

    Args:
        pictures: uint8 ``(F, C, H, W)``; channels last in memory is fastest.
        size_px: Side of the square.
        exact: Filter in float32 and round once, which equals ``resize`` of ``torchvision.transforms`` with
            ``antialias=True``: what the released checkpoints saw. Otherwise torch's integer kernel, which
            equals ``torchvision.transforms.v2`` where the CPU has AVX2: 4 to 5 times as fast, values 0.1
            apart on average and 4 at most on real clips.
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
    # Bicubic overshoots at edges: clamp, or 256 becomes 0 as uint8. The integer kernel does so by itself.
    return stretched.clamp_(0, 255).round_().to(torch.uint8) if exact else stretched


def frame_converter(size_px: int | None, resize: Resizer) -> Callable[[Any], Tensor]:
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
        picture = _upright(picture, frame)
        if size_px is not None:
            picture = stretch(picture[None], size_px, exact=resize == "torch")[0]
        return picture.contiguous()

    return convert


def _upright(picture: Tensor, frame: Any) -> Tensor:
    """Turn and mirror a picture ``(3, H, W)`` as the frame's display matrix says.

    The matrix takes a place (x, y) of the stored picture to (a x + c y, b x + d y) on the screen. Players
    know the eight orientations of a picture; what lies between them is taken for the nearest one.
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
