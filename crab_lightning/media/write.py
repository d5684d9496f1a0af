"""Writes small media files: test clips, synthetic data, and sound for endpoints."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor

from crab_lightning.media.errors import MediaError
from crab_lightning.spelling import counted
from crab_lightning.structures import SAMPLE_RATE_HZ

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Format:
    """The codecs of a container, and the options of its video encoder; ``video`` is ``None`` for sound."""

    video: str | None
    audio: str
    options: Mapping[str, str]


# The file contains no library version, date or random id.
_BITEXACT = {"fflags": "+bitexact"}
_X264 = {"preset": "ultrafast", "crf": "23"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "33", "b": "0"}
_FORMATS = {
    ".mp4": Format("libx264", "aac", _X264),
    ".mov": Format("libx264", "aac", _X264),
    ".mkv": Format("libx264", "aac", _X264),
    # PCM is used, because the delay of the MP3 encoder would add empty frames before the pictures of an avi.
    ".avi": Format("mpeg4", "pcm_s16le", {"qscale": "4"}),
    ".webm": Format("libvpx-vp9", "libopus", _VP9),
    ".mp3": Format(None, "libmp3lame", {}),
    ".wav": Format(None, "pcm_s16le", {}),
    ".m4a": Format(None, "aac", {}),
}


def write_video(
    path: str | Path,
    frames: Tensor | Array,
    fps: float,
    audio: Tensor | Array | None = None,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    *,
    keyframe_every: int | None = None,
    options: Mapping[str, str] | None = None,
    times_s: Sequence[float] | None = None,
) -> None:
    """Encode frames, and sound if it is given. The extension chooses the container and the codecs.

    mp4, mov and mkv use H.264 and AAC, avi uses MPEG-4 and PCM, and webm uses VP9 and Opus. With the same
    ffmpeg libraries, the same input gives the same bytes.

    Args:
        path: File to write. Its folder must exist.
        frames: uint8 RGB ``(F, H, W, 3)``. H.264 keeps odd sizes by storing colour at full resolution.
        fps: Frames per second.
        audio: float ``(S,)`` or ``(channels, S)`` in [-1, 1], with one or two channels.
        sample_rate_hz: Sample rate of ``audio``.
        keyframe_every: Largest distance between key frames. By default, the codec decides.
        options: Encoder options as in ffmpeg, added to the fast defaults.
        times_s: Time of each frame in seconds, in rising order. By default, all distances are equal.

    Raises:
        MediaError: If the extension is not known.
        ValueError: If ``frames``, ``times_s`` or ``audio`` has the wrong shape.
    """
    path = Path(path)
    form = container_format(path, video=True)
    pictures = _numpy(frames)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8 or len(pictures) == 0:
        raise ValueError(f"frames must be uint8 (F, H, W, 3), got {pictures.dtype} {pictures.shape}.")
    if times_s is not None and len(times_s) != len(pictures):
        raise ValueError(f"times_s has {len(times_s)} values for {counted(len(pictures), 'frame')}.")
    with av.open(f"file:{path}", "w", options=muxer_options(path)) as container:
        rate = Fraction(fps).limit_denominator(1001)
        height, width = pictures.shape[1:3]
        video = video_track(
            container, str(form.video), rate, height, width, {**form.options, **(options or {})}
        )
        context = video.codec_context
        context.flags |= av.codec.context.Flags.bitexact
        if keyframe_every is not None:
            context.gop_size = keyframe_every
        time_base = 1 / rate
        if times_s is not None:
            time_base = Fraction(1, 90_000)
            context.time_base = time_base
        sound = None if audio is None else SoundTrack(container, form.audio, _channels(audio), sample_rate_hz)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.time_base = time_base
            frame.pts = number if times_s is None else round(times_s[number] * 90_000)
            container.mux(video.encode(frame))
            if sound is not None:
                # Sound is interleaved by time, because a file with all its sound at the end is slow to read.
                sound.write_until((number + 1) / fps if times_s is None else times_s[number])
        container.mux(video.encode(None))
        if sound is not None:
            sound.finish()


def write_audio(
    path: str | Path,
    samples: Tensor | Array,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    *,
    bit_rate: int | None = None,
) -> None:
    """Encode a waveform. The extension (mp3, wav, m4a) chooses the codec; wav is 16-bit PCM.

    Args:
        path: File to write. Its folder must exist.
        samples: float ``(S,)`` or ``(channels, S)`` in [-1, 1], with one or two channels.
        sample_rate_hz: Sample rate of ``samples``.
        bit_rate: Bits per second of a lossy codec. By default, the encoder uses a low rate.

    Raises:
        MediaError: If the extension is not known.
        ValueError: If ``samples`` has the wrong shape or is empty.
    """
    path = Path(path)
    form = container_format(path, video=False)
    with av.open(f"file:{path}", "w", options=muxer_options(path)) as container:
        SoundTrack(container, form.audio, _channels(samples), sample_rate_hz, bit_rate).finish()


def wav_bytes(samples: Tensor, *, lossless: bool = False) -> bytes:
    """Return the bytes of a 16 kHz mono WAV file.

    Args:
        samples: float ``(S,)`` in [-1, 1].
        lossless: Store 32-bit floats, which some programs cannot read, instead of 16-bit integers.
    """
    from scipy.io import wavfile

    values, out = samples.detach().cpu().float().numpy(), io.BytesIO()
    whole = values if lossless else (values.clip(-1, 1) * 32767).round().astype("<i2")
    wavfile.write(out, SAMPLE_RATE_HZ, whole)
    return out.getvalue()


def video_track(
    container: Any, codec: str, rate: Fraction, height: int, width: int, options: Mapping[str, str]
) -> Any:
    """Add a video stream to a container and return it. It uses one thread; H.264 may have odd sizes."""
    stream = container.add_stream(codec, rate=rate, options=dict(options))
    stream.height, stream.width = height, width
    is_odd = bool(height % 2 or width % 2)
    stream.pix_fmt = "yuv444p" if is_odd and codec == "libx264" else "yuv420p"
    stream.codec_context.thread_count = 1
    return stream


class SoundTrack:
    """An audio stream that is being written.

    Args:
        container: Container that is open for writing.
        codec: Name of the encoder.
        samples: float ``(channels, S)`` in [-1, 1].
        rate_hz: Sample rate of ``samples``.
        bit_rate: Bits per second of a lossy codec. By default, the encoder decides.
    """

    def __init__(
        self, container: Any, codec: str, samples: Array, rate_hz: int, bit_rate: int | None = None
    ) -> None:
        self._container, self._samples, self._rate_hz = container, samples, rate_hz
        self._layout = "mono" if len(samples) == 1 else "stereo"
        self._stream = container.add_stream(codec, rate=rate_hz, layout=self._layout)
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.flags |= av.codec.context.Flags.bitexact
        if bit_rate is not None and codec != "pcm_s16le":
            self._stream.codec_context.bit_rate = bit_rate
        self._at = 0

    def write_until(self, time_s: float) -> None:
        """Encode the samples up to a time in seconds."""
        end = min(self._samples.shape[1], int(time_s * self._rate_hz))
        if end <= self._at:
            return
        # Wav needs 16-bit integers, the lossy encoders need floats.
        is_pcm = self._stream.codec_context.name == "pcm_s16le"
        part = self._samples[:, self._at : end]
        if is_pcm:
            part = (part.clip(-1, 1) * 32767).round().astype(np.int16)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(part), format="s16p" if is_pcm else "fltp", layout=self._layout
        )
        frame.sample_rate = self._rate_hz
        frame.pts = self._at
        frame.time_base = Fraction(1, self._rate_hz)
        self._container.mux(self._stream.encode(frame))
        self._at = end

    def finish(self) -> None:
        """Encode the rest and close the stream."""
        self.write_until(self._samples.shape[1] / self._rate_hz + 1)
        self._container.mux(self._stream.encode(None))


def container_format(path: Path, *, video: bool) -> Format:
    """Return the codecs for the extension of a file.

    Raises:
        MediaError: If the extension is not known, or is one for sound if ``video`` is set and the other way
            round.
    """
    form = _FORMATS.get(path.suffix.lower())
    if form is None or (form.video is not None) != video:
        known = ", ".join(k for k, f in _FORMATS.items() if (f.video is not None) == video)
        raise MediaError(path, f"cannot be written: the extension must be one of {known}.")
    return form


def muxer_options(path: Path) -> dict[str, str]:
    """Return the options of the container that is written."""
    # The header comes first, as in files for the web, so that a download that was cut off can be recognised.
    return _BITEXACT | ({"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".mov", ".m4a") else {})


def _numpy(values: Tensor | Array) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _channels(audio: Tensor | Array) -> Array:
    samples = _numpy(audio).astype(np.float32, copy=False)
    samples = samples[None] if samples.ndim == 1 else samples
    if samples.ndim != 2 or len(samples) not in (1, 2) or samples.shape[1] == 0:
        raise ValueError(f"audio must be (S,) or (1 or 2 channels, S) with S > 0, got {samples.shape}.")
    return samples
