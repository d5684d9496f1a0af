"""Small clips with texture that moves, so that a frame decoded from wrong references differs visibly."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from crab_lightning.media import write_video

Frames = np.ndarray[Any, np.dtype[np.uint8]]


def moving_texture(frames: int = 48, height: int = 64, width: int = 96, seed: int = 0) -> Frames:
    """Return uint8 ``(F, H, W, 3)``: smooth noise that drifts, and a bar that says which frame it is."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    texture = texture.repeat(4, 0).repeat(4, 1)[:height, :width]
    clip = np.stack([np.roll(texture, (2 * i, 3 * i), (0, 1)) for i in range(frames)])
    for i in range(frames):
        clip[i, :8, : (i + 1) * width // frames] = 255
        clip[i, :8, (i + 1) * width // frames :] = 0
    return clip


def tone(seconds: float, rate_hz: int = 16_000, hz: float = 440.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a sine of amplitude 0.5, ``(S,)``."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def remux(source: Path, target: Path, change: Callable[[Any], Any | None]) -> None:
    """Copy the video packets of a file, each passed through ``change``; ``None`` leaves one out."""
    with av.open(str(source)) as opened, av.open(str(target), "w") as out:
        track = opened.streams.video[0]
        copy = out.add_stream_from_template(track)
        for packet in opened.demux(track):
            if packet.size and (changed := change(packet)) is not None:
                changed.stream = copy
                out.mux(changed)


def encode(
    path: Path,
    codec: str,
    frames: Frames,
    fps: int = 12,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Encode with any codec into any container, beyond what ``write_video`` offers."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def x264(path: Path, params: str = "", frames: Frames | None = None, keyframe_every: int = 12) -> None:
    """Encode with B-frames, B-pyramid and several references."""
    write_video(
        path,
        moving_texture() if frames is None else frames,
        12,
        keyframe_every=keyframe_every,
        options={"preset": "medium", "bf": "3", "x264-params": f"b-pyramid=normal:ref=3:{params}"},
    )


def set_rotation(path: Path, degrees: int) -> None:
    """Write a display matrix into an mp4: players turn the picture clockwise by so many degrees."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cos * 65536, sin * 65536, 0, -sin * 65536, cos * 65536, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes stand between the box name and the matrix
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))
