"""Pieces of longer recordings: right pictures, right sound, one clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crab_lightning.media import (
    EmptyMedia,
    MediaError,
    NoAudioTrack,
    cut_video,
    frame_indices,
    probe,
    read_audio,
    read_audio_piece,
    read_video,
    read_video_piece,
    write_audio,
    write_video,
)

HZ = 16_000


def recording(path: Path, *, sound: bool = True, fps: float = 5.0, side: int = 32) -> Path:
    """Twelve seconds: second k is grey 20 k and sounds at 200 + 100 k Hz; a key frame each 4 s."""
    frames = np.repeat(np.arange(12), int(fps))[:, None, None, None] * np.full((1, side, side, 3), 20)
    t = np.arange(12 * HZ) / HZ
    tone = 0.5 * np.sin(2 * np.pi * (200 + 100 * np.floor(t)) * t)
    write_video(
        path, frames.astype(np.uint8), fps, tone.astype(np.float32) if sound else None, keyframe_every=20
    )
    return path


def pitch(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * HZ / len(samples))


@pytest.mark.parametrize("ending", ["mp4", "webm", "avi", "mkv"])
def test_a_piece_shows_and_plays_its_own_seconds(tmp_path: Path, ending: str) -> None:
    whole = recording(tmp_path / f"long.{ending}")
    piece = tmp_path / f"piece.{ending}"
    cut_video(whole, piece, 3, 9)  # three seconds behind a key frame
    assert probe(piece).duration_s == pytest.approx(6, abs=0.3)
    clip = read_video(piece, 30)
    greys = clip.frames.float().mean((1, 2, 3)).numpy()
    assert np.abs(greys - 20 * np.repeat(np.arange(3, 9), 5)).max() < 6
    for samples in (read_audio_piece(whole, 3, 9).numpy(), read_audio(piece).numpy()):
        assert len(samples) == pytest.approx(6 * HZ, abs=0.1 * HZ)
        for second in range(6):
            inside = samples[int((second + 0.25) * HZ) : int((second + 0.75) * HZ)]
            assert pitch(inside) == pytest.approx(200 + 100 * (second + 3), abs=4)


def test_a_piece_at_the_end_is_as_long_as_what_there_is(tmp_path: Path) -> None:
    whole = recording(tmp_path / "long.mp4", side=33)  # odd sizes keep
    cut_video(whole, tmp_path / "end.mp4", 10, 20)
    assert probe(tmp_path / "end.mp4").duration_s == pytest.approx(2, abs=0.3)
    assert probe(tmp_path / "end.mp4").width == 33


def test_a_silent_recording_is_cut_without_sound_and_has_no_piece_of_it(tmp_path: Path) -> None:
    whole = recording(tmp_path / "long.mp4", sound=False)
    cut_video(whole, tmp_path / "piece.mp4", 2, 4)
    assert not probe(tmp_path / "piece.mp4").has_audio
    with pytest.raises(NoAudioTrack):
        read_audio_piece(whole, 2, 4)


def test_a_piece_behind_the_end_is_an_error(tmp_path: Path) -> None:
    whole = recording(tmp_path / "long.mp4")
    with pytest.raises(EmptyMedia, match="from 30 to 40 s"):
        cut_video(whole, tmp_path / "piece.mp4", 30, 40)
    with pytest.raises(MediaError, match="extension must be one of"):
        cut_video(whole, tmp_path / "piece.flv", 3, 4)


@pytest.mark.parametrize("rate_hz", [HZ, 44_100, 48_000])
def test_sound_of_a_piece_is_that_of_the_whole_file(tmp_path: Path, rate_hz: int) -> None:
    noise = torch.rand(2, 8 * rate_hz, generator=torch.Generator().manual_seed(0)) - 0.5
    write_audio(tmp_path / "a.wav", noise, rate_hz)
    whole = read_audio(tmp_path / "a.wav")
    for start_s, end_s in ((0.0, 2.0), (3.3, 5.0), (6.5, 9.0)):
        piece = read_audio_piece(tmp_path / "a.wav", start_s, end_s)
        wanted = whole[round(start_s * HZ) : round(end_s * HZ)]
        torch.testing.assert_close(piece, wanted, atol=1e-6, rtol=0)
    with pytest.raises(EmptyMedia, match="no sound from 9 to 10 s"):
        read_audio_piece(tmp_path / "a.wav", 9, 10)


def test_pictures_and_sound_stay_together_where_the_clock_begins_late(tmp_path: Path) -> None:
    """A copy whose times begin at 2 s: its own second 3 is the recording's second 3."""
    import av

    whole, late = recording(tmp_path / "long.mkv"), tmp_path / "late.mkv"
    with av.open(str(whole)) as source, av.open(str(late), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.pts is None or packet.dts is None:
                continue
            shift = round(2 / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    samples = read_audio_piece(late, 3, 5).numpy()
    assert pitch(samples[4_000:12_000]) == pytest.approx(500, abs=4)
    cut_video(late, tmp_path / "piece.mp4", 3, 5)
    greys = read_video(tmp_path / "piece.mp4", 2).frames.float().mean((1, 2, 3))
    assert greys.tolist() == pytest.approx([60, 80], abs=8)


@pytest.mark.parametrize("ending", ["mp4", "webm", "avi", "mkv"])
def test_frames_of_a_piece_are_those_of_the_whole_file_at_these_times(tmp_path: Path, ending: str) -> None:
    whole = recording(tmp_path / f"long.{ending}")
    every = read_video(whole, 60, 24)
    assert every.total_frames == 60
    for start_s, end_s in ((0.0, 12.0), (3.0, 9.0), (4.5, 5.3), (11.0, 20.0)):
        inside = [i for i, at_s in enumerate(every.times_s.tolist()) if start_s <= at_s + 1e-3 < end_s]
        wanted = every.frames[[inside[i] for i in frame_indices(len(inside), 7)]]
        assert torch.equal(read_video_piece(whole, start_s, end_s, 7, 24), wanted)
    with pytest.raises(EmptyMedia, match="no frame from 13 to 14 s"):
        read_video_piece(whole, 13, 14, 7, 24)
