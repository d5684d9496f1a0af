"""Sound of every container to 16 kHz mono."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
import torch

from crab_lightning.media import (
    EmptyMedia,
    MediaError,
    MediaLimits,
    MediaTooLarge,
    NoAudioTrack,
    TruncatedMedia,
    UnreadableMedia,
    log_mel,
    read_audio,
    write_audio,
    write_video,
)
from tests.media.clips import moving_texture, tone


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a"])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_tone_comes_back_in_place(name: str, rate_hz: int, tmp_path: Path) -> None:
    write_audio(tmp_path / name, tone(1.5, rate_hz), rate_hz)
    heard = read_audio(tmp_path / name)
    assert heard.dtype == torch.float32
    assert heard.ndim == 1
    # AAC ends on a whole packet of 1024 samples.
    assert 24_000 <= heard.numel() < 24_000 + 1024
    middle = slice(4000, 20_000)
    assert (
        torch.nn.functional.cosine_similarity(heard[middle], torch.from_numpy(tone(1.5))[middle], dim=0)
        > 0.99
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.webm"])
def test_track_of_a_video_is_read(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, moving_texture(20), 10, tone(2.0, 48_000), 48_000)
    heard = read_audio(tmp_path / name)
    assert heard.numel() == pytest.approx(32_000, abs=1100)
    spectrum = torch.fft.rfft(heard[:16_000]).abs()
    assert spectrum.argmax() == 440


def test_stereo_is_averaged_not_summed(tmp_path: Path) -> None:
    left, right = tone(1.0), np.zeros(16_000, np.float32)
    write_audio(tmp_path / "same.wav", np.stack([left, left]))
    write_audio(tmp_path / "left.wav", np.stack([left, right]))
    assert torch.allclose(read_audio(tmp_path / "same.wav"), torch.from_numpy(left), atol=1e-4)
    assert torch.allclose(read_audio(tmp_path / "left.wav"), torch.from_numpy(left) / 2, atol=1e-4)


def test_resampling_keeps_the_last_samples(tmp_path: Path) -> None:
    samples = np.zeros(48_000, np.float32)
    samples[-300:] = 0.5
    write_audio(tmp_path / "a.wav", samples, 48_000)
    heard = read_audio(tmp_path / "a.wav")
    assert heard.numel() == 16_000
    assert heard[-50:].mean() > 0.4


def test_other_rates_can_be_asked_for(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(1.0))
    assert read_audio(tmp_path / "a.wav", 8_000).numel() == 8_000


def test_clip_without_audio_track_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(5), 10)
    with pytest.raises(NoAudioTrack, match=r"a\.mp4: has no audio track. Give a separate audio file"):
        read_audio(tmp_path / "a.mp4")


def test_zero_bytes_and_zero_samples_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(EmptyMedia, match="zero bytes"):
        read_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav", tone(0.1))
    header = bytearray((tmp_path / "b.wav").read_bytes()[:44])
    header[4:8], header[40:44] = (36).to_bytes(4, "little"), bytes(4)
    (tmp_path / "b.wav").write_bytes(bytes(header))
    with pytest.raises(EmptyMedia, match="without a single sample"):
        read_audio(tmp_path / "b.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_truncated_sound_says_how_much_is_left(name: str, tmp_path: Path) -> None:
    write_audio(tmp_path / name, tone(3.0))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(TruncatedMedia, match=r"only 1\.\d\d s of sound"):
        read_audio(tmp_path / name)


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(1.0))
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(bytes(data))
    assert read_audio(tmp_path / "a.wav").numel() == 16_000


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.m4a", tone(3.0))
    data = bytearray((tmp_path / "a.m4a").read_bytes())
    with av.open(str(tmp_path / "a.m4a")) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    for packet in packets[20:30]:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    (tmp_path / "a.m4a").write_bytes(bytes(data))
    with pytest.raises(UnreadableMedia, match=r"a\.m4a: cannot be decoded beyond 1\.\d\d s of sound"):
        read_audio(tmp_path / "a.m4a")


def test_tag_behind_an_mp3_is_no_damage(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", tone(1.0))
    plain = read_audio(tmp_path / "a.mp3")
    with (tmp_path / "a.mp3").open("ab") as file:
        file.write(b"TAG" + b"\0" * 125)
    assert torch.equal(read_audio(tmp_path / "a.mp3"), plain)


def test_sound_that_outlasts_its_header_is_stopped(tmp_path: Path) -> None:
    # A chain of mp3 packets declares no length that could be checked beforehand.
    write_audio(tmp_path / "a.mp3", tone(3.0))
    with pytest.raises(MediaTooLarge, match=r"data.limits.duration_s = 1.0"):
        read_audio(tmp_path / "a.mp3", limits=MediaLimits(duration_s=1))


def test_nothing_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with S > 0, got \(1, 0\)"):
        write_audio(tmp_path / "a.wav", np.zeros(0, np.float32))


def test_unknown_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"must be one of \.mp3, \.wav, \.m4a"):
        write_audio(tmp_path / "a.xyz", tone(1.0))


def test_change_of_rate_midway_is_an_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp3"), "w") as out:
        stream = out.add_stream("libmp3lame", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    write_audio(tmp_path / "b.mp3", tone(1.0, 48_000), 48_000)
    (tmp_path / "a.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    with pytest.raises(UnreadableMedia, match=r"a\.mp3: cannot be decoded beyond"):
        read_audio(tmp_path / "a.mp3")


def test_real_audio_files_are_read(real_clips: Path) -> None:
    files = sorted([*real_clips.rglob("*.mp3"), *real_clips.rglob("*.wav")])
    assert len(files) == 6
    for path in files:
        heard = read_audio(path)
        assert 4.9 < heard.numel() / 16_000 < 10.2
        assert 0.001 < heard.abs().mean() < 0.5


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampled_sound_has_the_mel_of_the_released_loader(
    rate_hz: int, channels: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(rate_hz)
    samples = rng.uniform(-0.5, 0.5, (channels, 5 * rate_hz + 7)).astype(np.float32)
    write_audio(tmp_path / "a.wav", samples, rate_hz)
    # librosa.load(path, sr=16000): the mean of the channels, soxr at its quality soxr_hq, and zeros up to the
    # rounded-up length.
    stored = (samples.clip(-1, 1) * 32767).round().astype(np.int16) / np.float32(32768)
    expected = soxr.resample(stored.mean(axis=0), rate_hz, 16_000, quality="soxr_hq")
    length = -(-samples.shape[1] * 16_000 // rate_hz)
    expected = np.pad(expected, (0, max(0, length - len(expected))))[:length]
    heard = read_audio(tmp_path / "a.wav")
    assert heard.shape == (length,)
    assert (log_mel(heard) - log_mel(torch.from_numpy(expected))).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("codec", "kind"),
    [
        ("pcm_u8", "u8"),
        ("pcm_s16le", "s16"),
        ("pcm_s32le", "s32"),
        ("pcm_f32le", "flt"),
        ("pcm_f64le", "dbl"),
    ],
)
def test_every_sample_format_has_the_same_scale(codec: str, kind: str, tmp_path: Path) -> None:
    wave = np.stack([tone(1.0), -0.5 * tone(1.0)])
    scale = {"u8": 128, "s16": 32768, "s32": 2**31}.get(kind)
    types = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
    values = (
        wave if scale is None else np.rint(wave.astype(np.float64) * scale) + (128 if kind == "u8" else 0)
    )
    packed = np.ascontiguousarray(values.T.astype(types[kind]).reshape(1, -1))
    with av.open(str(tmp_path / "a.wav"), "w") as out:
        stream = out.add_stream(codec, rate=16_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(packed, format=kind, layout="stereo")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    heard = read_audio(tmp_path / "a.wav")
    assert (heard - torch.from_numpy(wave.mean(axis=0))).abs().max() < (0.01 if kind == "u8" else 1e-4)
