"""Which files are read, which are refused by name, and that opening one is bounded."""

from __future__ import annotations

import os
import struct
import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from crab_lightning.media import (
    EmptyMedia,
    MediaError,
    MediaLimits,
    TruncatedMedia,
    UnreadableMedia,
    probe,
    read_audio,
    read_image,
    read_video,
    write_video,
)
from tests.media.clips import moving_texture, on_a_clock, tone
from tests.media.test_clock import write_vbr


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formats") / "clip.mp4"
    write_video(path, moving_texture(10), 10, tone(1.0))
    return path


PLAYLISTS = {
    "ffconcat version 1.0\nfile {clip}\n": r"a list of files \(ffconcat\)",
    "ffconcat version 1.0\n" + "file {clip}\n" * 20_000: r"a list of files \(ffconcat\)",
    "#EXTM3U\n#EXTINF:1,\n{clip}\n": "a playlist",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n": "a session description",
    "<?xml version='1.0'?><MPD></MPD>": "XML",
    "version https://git-lfs.github.com/spec/v1\n": "Git LFS",
}


@pytest.mark.parametrize("text", PLAYLISTS)
@pytest.mark.parametrize("name", ["a.wav", "a.mp4"])
def test_text_that_names_other_files_is_refused_by_name(
    text: str, name: str, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text.format(clip=clip))
    began = time.monotonic()
    for read in (read_audio, probe, lambda path: read_video(path, 1)):
        with pytest.raises(UnreadableMedia, match=rf"{name}: .*{PLAYLISTS[text]}"):
            read(tmp_path / name)  # type: ignore[operator]
    assert time.monotonic() - began < 5


def test_a_demuxer_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.nut"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    with pytest.raises(UnreadableMedia, match="its format is not read"):
        read_audio(tmp_path / "a.nut")


@pytest.mark.parametrize("name", ["a:b.mp4", "-a.mp4", "http:a.mp4", "a%03d.mp4", "concat:a|b.mp4"])
def test_name_of_a_file_is_only_a_name(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert read_audio(name).numel() >= 16_000
    assert read_video(name, 3).total_frames == 10


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n", b"<svg xmlns=''/>"])
def test_picture_in_another_format_is_refused_by_name(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(start + b"%%BoundingBox: 0 0 10 10\n" * 20)
    with pytest.raises(
        UnreadableMedia, match=r"a\.jpg: .*(PostScript|PDF|a drawing .svg.), which is not read"
    ):
        read_image(tmp_path / "a.jpg")


def test_picture_in_the_place_of_a_clip_and_the_reverse_are_named(clip: Path, tmp_path: Path) -> None:
    for form in ("jpg", "png", "webp", "tiff", "jp2"):
        Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / f"a.{form}")
        for read in (probe, read_audio, lambda path: read_video(path, 1)):
            with pytest.raises(
                UnreadableMedia, match=r"is a picture \(.*\), and a video or a sound is needed"
            ):
                read(tmp_path / f"a.{form}")  # type: ignore[operator]
    with pytest.raises(
        UnreadableMedia, match=r"is a video or a sound \(MP4 or MOV\), and a picture is needed"
    ):
        read_image(clip)
    (tmp_path / "phone.jpg").write_bytes(
        struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1") + bytes(90)
    )
    with pytest.raises(UnreadableMedia, match=r"is a picture in HEIC, which is not read\. .* Convert it"):
        read_image(tmp_path / "phone.jpg")


@pytest.mark.parametrize("name", ["jpg", "png", "bmp", "gif", "tiff", "webp", "ppm", "jp2"])
def test_listed_pictures_are_read(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / f"a.{name}")
    assert read_image(tmp_path / f"a.{name}", None).float().mean((1, 2)).argmax() == 0


def test_opening_ends_in_time(tmp_path: Path) -> None:
    # Three million empty boxes of eight bytes.
    head = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"isom", 0, b"isom", b"mp42")
    (tmp_path / "a.mp4").write_bytes(head + struct.pack(">I4s", 8, b"free") * 3_000_000)
    began = time.monotonic()
    with pytest.raises(UnreadableMedia, match=r"was not opened within data.limits.open_s = 1 s"):
        read_audio(tmp_path / "a.mp4", limits=MediaLimits(open_s=1))
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("rate_hz", [1, 10, 2_000_000])
def test_sound_at_an_absurd_rate_is_refused(rate_hz: int, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(bytes(16_000))
    with pytest.raises(UnreadableMedia, match=rf"states a sample rate of {rate_hz} Hz"):
        read_audio(tmp_path / "a.wav")


def encoded(path: Path, codec: str, options: dict[str, str] | None = None) -> None:
    """Write 3 s of noise with any codec, muxer options given."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 44_100)
    with av.open(str(path), "w", options=options or {}) as out:
        stream = out.add_stream(codec, rate=44_100, layout="mono")
        kind = "s16" if codec in ("flac", "pcm_s16le", "pcm_s16be") else "fltp"
        values = (samples * 32767).astype(np.int16) if kind == "s16" else samples.astype(np.float32)
        size = stream.codec_context.frame_size or 4096
        for at in range(0, len(values), size):
            frame = av.AudioFrame.from_ndarray(values[None, at : at + size], format=kind, layout="mono")
            frame.sample_rate, frame.pts = 44_100, at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


TRUNCATED = {
    "xing.mp3": ("libmp3lame", {}),
    "id3.mp3": ("libmp3lame", {"id3v2_version": "3"}),
    "a.flac": ("flac", {}),
    "a.ogg": ("flac", {}),
    "a.wav": ("pcm_s16le", {}),
    "rf64.wav": ("pcm_s16le", {"rf64": "always"}),
    "a.aiff": ("pcm_s16be", {}),
}


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("share", [0.45, 0.93])
def test_sound_that_was_cut_off_is_noticed(name: str, share: float, tmp_path: Path) -> None:
    encoded(tmp_path / name, *TRUNCATED[name])
    whole = read_audio(tmp_path / name)
    assert whole.numel() == pytest.approx(48_000, abs=900)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(TruncatedMedia, match=rf"{name}: is cut off"):
        read_audio(tmp_path / name)


@pytest.mark.parametrize("kind", ["frames", "vbri"])
def test_mp3_that_states_frames_or_a_vbri_header_is_noticed(kind: str, tmp_path: Path) -> None:
    encoded(tmp_path / "a.mp3", "libmp3lame")
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    at = data.find(b"Xing") if b"Xing" in data[:3000] else data.find(b"Info")
    frames, size = struct.unpack(">II", data[at + 8 : at + 16])
    if kind == "frames":
        data[at + 4 : at + 16] = struct.pack(">III", 1, frames, 0)
    else:  # as Fraunhofer's encoder writes it, 36 bytes into the first frame
        start = data.rfind(b"\xff", 0, at)
        data[at : at + 120] = bytes(120)
        data[start + 36 : start + 54] = struct.pack(">4sHHHII", b"VBRI", 1, 0, 0, size, frames)
    (tmp_path / "a.mp3").write_bytes(bytes(data))
    assert read_audio(tmp_path / "a.mp3").numel() > 47_000
    (tmp_path / "a.mp3").write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(TruncatedMedia, match="missing at its end"):
        read_audio(tmp_path / "a.mp3")


def test_whole_files_of_every_kind_are_no_cut_ones(tmp_path: Path) -> None:
    for name, (codec, options) in TRUNCATED.items():
        encoded(tmp_path / name, codec, options)
        data = (tmp_path / name).read_bytes()
        if name.endswith("mp3") or name == "a.flac":  # tags behind the sound
            (tmp_path / name).write_bytes(data + b"TAG" + b"x" * 125)
        assert read_audio(tmp_path / name).numel() == pytest.approx(48_000, abs=900)
    write_vbr(tmp_path / "vbr.mp3")
    assert read_audio(tmp_path / "vbr.mp3").numel() > 90_000


def test_flac_that_lost_its_end_but_no_whole_frame_is_noticed(tmp_path: Path) -> None:
    encoded(tmp_path / "a.flac", "flac")
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[:-3])
    with pytest.raises(TruncatedMedia, match="is cut off"):
        read_audio(tmp_path / "a.flac")


def test_folders_pipes_and_nothing_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    on_a_clock(tmp_path / "c.mka", None, 10, [(0.0, tone(0.5, 48_000))])
    for name, kind in (("a.wav", MediaError), ("b.wav", EmptyMedia), (".", MediaError)):
        with pytest.raises(kind):
            read_audio(tmp_path / name)
