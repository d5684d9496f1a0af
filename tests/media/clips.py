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


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into an mp4: (x, y) of the stored picture is shown at (ax + cy, bx + dy)."""
    matrix = [a * 65536, b * 65536, 0, c * 65536, d * 65536, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))


Tone = np.ndarray[Any, np.dtype[np.float32]]
_CODECS = {".mp4": ("libx264", "aac"), ".mkv": ("libx264", "aac"), ".webm": ("libvpx-vp9", "libopus")}
_CODECS |= {
    ".avi": ("mpeg4", "pcm_s16le"),
    ".m4a": ("", "aac"),
    ".mka": ("", "flac"),
    ".ts": ("libx264", "aac"),
}


def beep(seconds: float, at_s: float, rate_hz: int = 48_000) -> Tone:
    """Return silence with a tone of 0.2 s at a moment, ``(S,)``."""
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    first = round(at_s * rate_hz)
    samples[first : first + round(0.2 * rate_hz)] = tone(0.2, rate_hz, 1000.0)
    return samples


def onset_s(samples: Any, rate_hz: int = 16_000) -> float:
    """Return when the first loud sample comes."""
    return int(np.flatnonzero(np.abs(np.asarray(samples)) > 0.1)[0]) / rate_hz


def on_a_clock(
    path: Path,
    frames: Frames | None,
    fps: int,
    tracks: list[tuple[float, Tone]],
    *,
    video_start_s: float = 0.0,
    holes: tuple[tuple[float, float], ...] = (),
    marks: tuple[int, ...] = (),
    rate_hz: int = 48_000,
) -> None:
    """Mux pictures and sound tracks that begin at any time, with pauses inside the sound.

    Args:
        path: File; the extension chooses container and codecs.
        frames: The pictures; ``None`` for sound alone.
        fps: Frames per second.
        tracks: Start in seconds and samples of every sound track.
        video_start_s: Time of the first picture.
        holes: Begin and end of stretches, in the file's time, whose sound packets are left out.
        marks: Disposition of every sound track.
        rate_hz: Rate of the samples.
    """
    picture, sound = _CODECS[path.suffix]
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        packets = []
        if frames is not None:
            video = out.add_stream(picture, rate=fps, options={"g": str(fps)})
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
        streams = [out.add_stream(sound, rate=rate_hz, layout="mono") for _ in tracks]
        for stream, mark in zip(streams, marks, strict=False):
            stream.disposition = av.stream.Disposition(mark)
        out.start_encoding()
        if frames is not None:
            shift = round(video_start_s * fps)
            made = [av.VideoFrame.from_ndarray(f, format="rgb24") for f in frames]
            for i, frame in enumerate(made):
                frame.pts, frame.time_base = i + shift, Fraction(1, fps)
            packets += [p for f in [*made, None] for p in video.encode(f)]
        for (start_s, samples), stream in zip(tracks, streams, strict=True):
            kind = {"pcm_s16le": "s16", "flac": "s16", "libopus": "flt"}.get(sound, "fltp")
            values = (samples * 32767).astype(np.int16) if kind == "s16" else samples
            size = stream.codec_context.frame_size or 1024
            for at in range(0, len(values), size):
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(values[None, at : at + size]), format=kind, layout="mono"
                )
                part.sample_rate, part.time_base = rate_hz, Fraction(1, rate_hz)
                part.pts = round(start_s * rate_hz) + at
                packets += stream.encode(part)
            packets += stream.encode(None)
        kept = []
        for packet in packets:
            time_s = float(packet.pts * packet.time_base)
            if packet.stream.type == "audio" and any(a <= time_s < b for a, b in holes):
                continue
            kept.append((float(packet.dts * packet.time_base), packet))
        for _, packet in sorted(kept, key=lambda pair: pair[0]):
            out.mux(packet)
