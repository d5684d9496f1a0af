"""Picture and sound share one clock; the tracks and the frames that players choose are read."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from crab_lightning.media import (
    MediaLimits,
    SoundGaps,
    probe,
    read_audio,
    read_frame_at,
    read_video,
    sound_gaps,
    write_audio,
    write_video,
)
from tests.media.clips import beep, moving_texture, on_a_clock, onset_s, set_matrix, tone, x264

DEFAULT, COMMENT = av.stream.Disposition.default.value, av.stream.Disposition.comment.value


def white_from(second: int, seconds: int = 6, fps: int = 10) -> np.ndarray:
    frames = np.zeros((seconds * fps, 32, 32, 3), np.uint8)
    frames[second * fps :] = 255
    return frames


def white_s(path: Path) -> float:
    clip = read_video(path, 60)
    bright = clip.frames.float().mean((1, 2, 3)) > 128
    return float(clip.times_s[bright][0])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts"])
@pytest.mark.parametrize(
    ("video_s", "audio_s"), [(0.0, 2.0), (0.0, 0.03), (1.0, 0.0), (1.0, 1.0), (0.5, 2.0)]
)
def test_picture_and_sound_share_one_clock(name: str, video_s: float, audio_s: float, tmp_path: Path) -> None:
    # Both change at 4.0 s of the file's own time.
    frames = white_from(4)[round(video_s * 10) :]
    on_a_clock(
        tmp_path / name, frames, 10, [(audio_s, beep(6 - audio_s, 4 - audio_s))], video_start_s=video_s
    )
    heard = read_audio(tmp_path / name)
    first = min(video_s, audio_s)
    assert onset_s(heard) == pytest.approx(4 - first, abs=0.035)  # codecs smear, mpeg-ts adds its own start
    # mpeg-ts shows the run-up of the decoder as sound.
    assert white_s(tmp_path / name) == pytest.approx(4 - first, abs=0.025 if name == "a.ts" else 1e-3)
    assert len(heard) / 16_000 == pytest.approx(6 - first, abs=0.1)
    late = max(0.0, audio_s - video_s)
    assert sound_gaps(tmp_path / name).start_s == pytest.approx(late, abs=0.04)
    assert torch.all(heard[: max(0, round(16_000 * (late - 0.03)))] == 0)


def test_start_in_the_header_of_an_avi_is_heard(tmp_path: Path) -> None:
    on_a_clock(tmp_path / "a.avi", white_from(4), 10, [(0.0, beep(4, 2))])
    data = bytearray((tmp_path / "a.avi").read_bytes())
    at = data.index(b"auds") + 28  # dwStart of the stream's header, in samples
    scale, rate = (int.from_bytes(data[at - 8 + i : at - 4 + i], "little") for i in (0, 4))
    data[at : at + 4] = round(2.0 * rate / scale).to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(bytes(data))
    assert onset_s(read_audio(tmp_path / "a.avi")) == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.mka"])
def test_pause_inside_a_track_is_silence(name: str, tmp_path: Path) -> None:
    frames = None if name == "a.mka" else white_from(4)
    on_a_clock(tmp_path / name, frames, 10, [(0.0, beep(6, 4) + 0.02 * tone(6, 48_000))], holes=((1.0, 3.0),))
    heard = read_audio(tmp_path / name)
    assert onset_s(heard) == pytest.approx(4.0, abs=0.03)
    assert len(heard) / 16_000 == pytest.approx(6.0, abs=0.1)
    assert heard[int(1.1 * 16_000) : int(2.9 * 16_000)].abs().max() < 1e-3
    assert heard[int(0.5 * 16_000) : int(0.9 * 16_000)].abs().max() > 5e-3
    gaps = sound_gaps(tmp_path / name)
    assert [hole == pytest.approx((1.0, 2.0), abs=0.1) for hole in gaps.holes] == [True]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
def test_sound_that_ends_before_the_picture_is_followed_by_silence(name: str, tmp_path: Path) -> None:
    on_a_clock(tmp_path / name, white_from(4), 10, [(0.0, beep(3, 2))])
    heard = read_audio(tmp_path / name)
    assert len(heard) / 16_000 == pytest.approx(6.0, abs=0.05)
    assert onset_s(heard) == pytest.approx(2.0, abs=0.03)
    assert heard[int(3.1 * 16_000) :].abs().max() < 1e-3
    assert sound_gaps(tmp_path / name).tail_s == pytest.approx(3.0, abs=0.05)


def test_edit_list_that_leaves_out_the_beginning_is_obeyed(tmp_path: Path) -> None:
    # The muxer writes an edit list that begins 1 s into the track.
    on_a_clock(tmp_path / "a.mp4", white_from(4), 10, [(-1.0, beep(7, 5))])
    heard = read_audio(tmp_path / "a.mp4")
    assert onset_s(heard) == pytest.approx(white_s(tmp_path / "a.mp4"), abs=0.03)


def test_pause_that_an_edit_list_makes_is_silence(tmp_path: Path) -> None:
    # Second 0 to 1 of the track, nothing for 2 s, then the rest: a beep at 2 s of the track is heard at 4 s.
    on_a_clock(tmp_path / "a.mp4", white_from(4), 10, [(0.0, beep(4, 2))])
    edit_sound(tmp_path / "a.mp4", [(1000, 0), (2000, -1), (3000, 48_000)])
    heard = read_audio(tmp_path / "a.mp4")
    assert onset_s(heard) == pytest.approx(4.0, abs=0.05)
    assert white_s(tmp_path / "a.mp4") == pytest.approx(4.0, abs=1e-3)


def edit_sound(path: Path, edits: list[tuple[int, int]]) -> None:
    """Give the sound track of an mp4 an edit list: length in ms, and begin in the track (-1: empty)."""
    data = bytearray(path.read_bytes())
    trak = data.index(b"trak", data.index(b"trak") + 4) - 4
    assert b"soun" in data[trak : trak + 1000]
    if (old := data.find(b"edts", trak)) >= 0:
        data[old : old + 4] = b"free"
    entries = b"".join(struct.pack(">IiI", length, begin, 1 << 16) for length, begin in edits)
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    at = trak + 8 + struct.unpack(">I", data[trak + 8 : trak + 12])[0]  # behind the track's header
    for box in (trak, data.rindex(b"moov") - 4):
        size = struct.unpack(">I", data[box : box + 4])[0] + len(edts)
        data[box : box + 4] = struct.pack(">I", size)
    data[at:at] = edts
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["a.m4a", "a.mka"])
def test_track_copied_out_of_a_video_keeps_the_silence_before_it(name: str, tmp_path: Path) -> None:
    on_a_clock(tmp_path / name, None, 10, [(2.0, beep(3, 1))])
    assert onset_s(read_audio(tmp_path / name)) == pytest.approx(3.0, abs=0.03)


def test_files_without_packet_times_are_read_as_they_are(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", tone(2.0))
    assert sound_gaps(tmp_path / "a.mp3") == SoundGaps()
    write_video(tmp_path / "a.mp4", moving_texture(20), 10, tone(2.0, 48_000), 48_000)
    gaps = sound_gaps(tmp_path / "a.mp4")
    assert max(gaps.start_s, gaps.tail_s) < 0.05
    assert gaps.holes == ()


def test_silence_is_bounded_like_sound(tmp_path: Path) -> None:
    on_a_clock(tmp_path / "a.mka", None, 10, [(600.0, tone(1.0, 48_000))])
    with pytest.raises(ValueError, match=r"declares 601\.\d s, more than data\.limits"):
        read_audio(tmp_path / "a.mka", limits=MediaLimits(duration_s=300))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
@pytest.mark.parametrize(
    ("marks", "heard_hz"),
    [((COMMENT, DEFAULT), 880), ((0, DEFAULT), 880), ((DEFAULT, 0), 440), ((0, 0), 440), ((COMMENT, 0), 880)],
)
def test_sound_track_that_players_play_is_read(
    name: str, marks: tuple[int, int], heard_hz: int, tmp_path: Path
) -> None:
    if (name, marks) in (("a.mp4", (0, 0)), ("a.webm", (COMMENT, 0))):
        pytest.skip("the muxer writes other marks")
    on_a_clock(
        tmp_path / name,
        moving_texture(20),
        10,
        [(0.0, tone(2, 48_000, 440)), (0.0, tone(2, 48_000, 880))],
        marks=marks,
    )
    heard = read_audio(tmp_path / name)[8000:24_000]
    assert abs(int(torch.fft.rfft(heard).abs().argmax()) - heard_hz) <= 1


@pytest.mark.parametrize(
    "matrix",
    [
        *((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)),
        *((0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)),
    ],
)
@pytest.mark.parametrize("access", ["index", "sequential"])
def test_every_display_matrix_gives_the_picture_of_players(
    matrix: tuple[int, int, int, int], access: str, tmp_path: Path
) -> None:
    x264(tmp_path / "a.mp4")
    stored = read_video(tmp_path / "a.mp4", 1, None).frames[0].numpy()
    set_matrix(tmp_path / "a.mp4", *matrix)
    shown = read_video(tmp_path / "a.mp4", 1, None, access=access).frames[0].numpy()  # type: ignore[arg-type]
    a, b, c, d = matrix
    height, width = stored.shape[1:]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    to_x, to_y = a * x + c * y, b * x + d * y
    expected = np.zeros((3, abs(b) * width + abs(d) * height, abs(a) * width + abs(c) * height), np.uint8)
    expected[:, to_y - to_y.min(), to_x - to_x.min()] = stored
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("access", ["index", "sequential"])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi"])
def test_frame_at_a_moment_is_the_one_shown(name: str, access: str, tmp_path: Path) -> None:
    frames = moving_texture(50)
    if name == "a.mp4":
        x264(tmp_path / name, frames=frames)
    else:
        write_video(tmp_path / name, frames, 12)
    clip = read_video(tmp_path / name, 50, None)
    for moment_s, number in (
        (0.0, 0),
        (0.08, 0),
        (1 / 12, 1),
        (2.0, 24),
        (2.01, 24),
        (3.999, 47),
        (99.0, 49),
    ):
        picture, time_s = read_frame_at(tmp_path / name, moment_s, access=access)  # type: ignore[arg-type]
        assert torch.equal(picture, clip.frames[number])
        assert time_s == pytest.approx(number / 12, abs=2e-3)


def test_frame_at_a_moment_of_uneven_frames(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 1.0, 5.0, 5.1]
    write_video(tmp_path / "a.mp4", moving_texture(5), 10, times_s=times_s)
    assert [read_frame_at(tmp_path / "a.mp4", s)[1] for s in (0.05, 0.99, 4.9, 5.0)] == pytest.approx(
        [0.0, 0.1, 1.0, 5.0]
    )


def test_mp3_without_a_length_header_has_its_true_length(tmp_path: Path) -> None:
    write_vbr(tmp_path / "a.mp3")
    with av.open(str(tmp_path / "a.mp3")) as container:
        guessed_s = container.duration / av.time_base
    assert abs(guessed_s - 6.0) > 1.0  # what the header alone says
    assert probe(tmp_path / "a.mp3").duration_s == pytest.approx(6.0, abs=0.15)
    assert read_audio(tmp_path / "a.mp3").numel() / 16_000 == pytest.approx(6.0, abs=0.15)


def write_vbr(path: Path) -> None:
    """Write 1 s of silence and 5 s of noise at a variable rate, without a Xing header."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * 44_100).astype(np.float32)
    samples[:44_100] = 0
    quality = {"flags": "+qscale", "global_quality": str(2 * 118)}
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=44_100, layout="mono", options=quality)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
