"""Whole, odd and broken video files."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, functional, v2

from crab_lightning.media import (
    EmptyMedia,
    MediaError,
    MediaLimits,
    MediaTooLarge,
    MissingMedia,
    NoVideoTrack,
    TruncatedMedia,
    UnreadableMedia,
    frame_indices,
    probe,
    read_video,
    stretch,
    write_audio,
    write_video,
)
from crab_lightning.media.video import Resizer
from tests.media.clips import moving_texture, set_rotation, tone, x264


def test_indices_cover_the_whole_file() -> None:
    assert frame_indices(250, 10) == [0, 28, 55, 83, 111, 138, 166, 194, 221, 249]
    assert frame_indices(250, 4) == [0, 83, 166, 249]
    assert frame_indices(7, 1) == [0]


def test_short_clip_repeats_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(3), 10)
    clip = read_video(tmp_path / "a.mp4", 10, None)
    assert clip.total_frames == 3
    assert frame_indices(3, 10) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    for shown, index in zip(clip.frames, frame_indices(3, 10), strict=True):
        assert torch.equal(shown, clip.frames[[0, 3, 7][index]])
    assert len({frame.sum().item() for frame in clip.frames}) == 3


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.webm", "a.mov"])
def test_every_container_gives_its_pictures_back(name: str, tmp_path: Path) -> None:
    frames = moving_texture(24)
    write_video(tmp_path / name, frames, 12, tone(2.0))
    clip = read_video(tmp_path / name, 24, None)
    assert clip.frames.shape == (24, 3, 64, 96)
    assert clip.frames.dtype == torch.uint8
    # Lossy, but closer to its own frame than to any other.
    difference = (clip.frames.float()[:, None] - torch.from_numpy(frames).permute(0, 3, 1, 2).float()).abs()
    assert difference.mean((2, 3, 4)).argmin(1).tolist() == list(range(24))
    assert clip.times_s.tolist() == pytest.approx([i / 12 for i in range(24)], abs=2e-3)
    assert clip.duration_s == pytest.approx(2.0, abs=2e-3)


def test_default_stretches_to_224_as_torchvision_does(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(4, 90, 250), 10)
    whole = read_video(tmp_path / "a.mp4", 2, None).frames
    expected = functional.resize(whole, [224, 224], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(read_video(tmp_path / "a.mp4", 2).frames, expected)


@pytest.mark.parametrize("size", [(360, 640), (37, 501), (224, 224), (1, 1), (500, 120)])
def test_stretch_equals_torchvision(size: tuple[int, int]) -> None:
    pictures = torch.randint(
        0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = functional.resize(pictures, [224, 224], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(stretch(pictures, 224), expected)
    channels_last = pictures.contiguous(memory_format=torch.channels_last)
    assert torch.equal(stretch(channels_last, 224), expected)


@pytest.mark.skipif(
    "AVX" not in torch.backends.cpu.get_cpu_capability(), reason="torchvision uses floats there"
)
def test_integer_stretch_equals_torchvision_v2() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 3, 90, 130), dtype=torch.uint8, generator=generator)
    expected = v2.functional.resize(pictures, [224, 224], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(stretch(pictures, 224, exact=False), expected)


@pytest.mark.parametrize(("resize", "distance"), [("torch_uint8", 0.3), ("swscale", 3.0)])
def test_faster_resizers_are_close_to_the_released_one(
    resize: Resizer, distance: float, tmp_path: Path
) -> None:
    rows, columns = np.mgrid[:240, :320]
    smooth = 127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 11)
    frames = np.stack([np.roll(smooth, 5 * i, 1) for i in range(4)]).astype(np.uint8)[..., None].repeat(3, -1)
    write_video(tmp_path / "a.mp4", frames, 10)
    released = read_video(tmp_path / "a.mp4", 4).frames.float()
    other = read_video(tmp_path / "a.mp4", 4, resize=resize).frames.float()
    assert 0 < (other - released).abs().mean() < distance


def test_unknown_resizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resize is 'lanczos'; allowed: torch, torch_uint8, swscale"):
        read_video(tmp_path / "a.mp4", 4, resize="lanczos")  # type: ignore[arg-type]


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
@pytest.mark.parametrize("resize", get_args(Resizer))
def test_rotation_in_the_header_is_applied(degrees: int, turns: int, resize: Resizer, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(4), 10)
    upright = read_video(tmp_path / "a.mp4", 2, None).frames
    set_rotation(tmp_path / "a.mp4", degrees)
    turned = read_video(tmp_path / "a.mp4", 2, None, resize=resize)
    assert torch.equal(turned.frames, torch.rot90(upright, turns, (2, 3)))


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.webm"])
def test_odd_sizes_keep_every_row_and_column(name: str, tmp_path: Path) -> None:
    frames = moving_texture(4, 61, 83)
    write_video(tmp_path / name, frames, 10)
    clip = read_video(tmp_path / name, 4, None)
    assert clip.frames.shape == (4, 3, 61, 83)
    assert (clip.frames.float() - torch.from_numpy(frames).permute(0, 3, 1, 2)).abs().mean() < 40


def test_variable_frame_rate_keeps_true_times(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 0.2, 1.0, 1.5, 1.6]
    write_video(tmp_path / "a.mp4", moving_texture(6), 10, times_s=times_s)
    clip = read_video(tmp_path / "a.mp4", 6)
    assert clip.times_s.tolist() == pytest.approx(times_s, abs=1e-4)
    assert clip.duration_s >= 1.6


def test_only_wanted_frames_are_converted_and_kept(tmp_path: Path) -> None:
    from crab_lightning.media.pick import pick_frames

    x264(tmp_path / "a.mp4")
    converted: list[int] = []

    def convert(frame: av.VideoFrame) -> torch.Tensor:
        converted.append(frame.pts)
        return torch.zeros(1)

    for access in ("index", "sequential"):
        converted.clear()
        pick_frames(tmp_path / "a.mp4", lambda total: frame_indices(total, 4), convert, access=access)
        assert len(converted) == 4


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.avi", "a.mkv", "a.webm"):
        written = []
        for _ in range(2):
            write_video(tmp_path / name, moving_texture(6), 10, tone(0.6))
            written.append((tmp_path / name).read_bytes())
        assert written[0] == written[1]


def test_probe_reads_the_header(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(20), 10, tone(2.0, 48_000), 48_000)
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.fps) == (96, 64, 10.0)
    assert (info.has_video, info.has_audio, info.sample_rate_hz) == (True, True, 48_000)
    assert info.duration_s == pytest.approx(2.0, abs=0.05)


# Broken files


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingMedia, match=r"gone\.mp4: does not exist. Check the manifest"):
        read_video(tmp_path / "gone.mp4", 2)


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingMedia, match="is a folder"):
        read_video(tmp_path, 2)


def test_zero_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(EmptyMedia, match=r"a\.mp4: has zero bytes"):
        read_video(tmp_path / "a.mp4", 2)


def test_file_that_is_no_media_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(UnreadableMedia, match=r"a\.mp4: is a web page, which is not read"):
        read_video(tmp_path / "a.mp4", 2)


def test_sound_without_pictures_has_no_frames(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.m4a", tone(1.0))
    with pytest.raises(NoVideoTrack, match=r"a\.m4a: has no video track"):
        read_video(tmp_path / "a.m4a", 2)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp3"), "w") as out:
        sound = out.add_stream("libmp3lame", rate=16_000, layout="mono")
        cover = out.add_stream("png", rate=1)
        cover.height = cover.width = 32
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with av.open(str(tmp_path / "a.mp3")) as container:
        assert len(container.streams.video) == 1
    assert not probe(tmp_path / "a.mp3").has_video
    with pytest.raises(NoVideoTrack):
        read_video(tmp_path / "a.mp3", 2)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated_file_says_how_many_frames_are_left(name: str, share: float, tmp_path: Path) -> None:
    write_video(tmp_path / name, moving_texture(40), 10, tone(4.0))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        TruncatedMedia, match=r"is cut off: [\d,]+ bytes .* only \d+ of 4\d declared frames"
    ) as caught:
        read_video(tmp_path / name, 4)
    left = int(str(caught.value).split("only ")[1].split()[0])
    # The last hundredth of an avi or webm is its index: the frames are there, but the file is not whole.
    assert 0 < left <= 40 * (share + 0.1)


def test_file_cut_before_its_header_is_truncated(tmp_path: Path) -> None:
    # A recording: its header would have come last.
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for picture in moving_texture(20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(stream.encode(None))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(TruncatedMedia, match="including the header"):
        read_video(tmp_path / "a.mp4", 4)


def test_junk_behind_a_whole_file_is_ignored(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(10), 10)
    with (tmp_path / "a.mp4").open("ab") as file:
        file.write(b"\0" * 100)
    assert read_video(tmp_path / "a.mp4", 4).total_frames == 10


def test_header_without_frames_is_empty(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.avi", moving_texture(2), 10, tone(0.2))
    with av.open(str(tmp_path / "whole.avi")) as opened, av.open(str(tmp_path / "a.avi"), "w") as out:
        copies = {s.index: out.add_stream_from_template(s) for s in opened.streams}
        for packet in opened.demux():
            if packet.size and packet.stream.type == "audio":
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    with pytest.raises(EmptyMedia, match=r"a\.avi: has a video track without a single frame"):
        read_video(tmp_path / "a.avi", 2)


# Limits


def test_limits_refuse_with_the_figure_found(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_texture(30), 10, tone(3.0))
    with pytest.raises(MediaTooLarge, match=r"pictures of 96x64 pixels, more than data.limits.pixels = 1000"):
        read_video(tmp_path / "a.mp4", 2, limits=MediaLimits(pixels=1000))
    with pytest.raises(MediaTooLarge, match=r"declares 3.0 s, more than data.limits.duration_s = 2.0"):
        read_video(tmp_path / "a.mp4", 2, limits=MediaLimits(duration_s=2))
    with pytest.raises(MediaTooLarge, match=r"has 2 streams, more than data.limits.streams = 1"):
        read_video(tmp_path / "a.mp4", 2, limits=MediaLimits(streams=1))


def test_file_above_the_index_limit_is_read_from_its_start(tmp_path: Path) -> None:
    x264(tmp_path / "a.mp4")
    small = read_video(tmp_path / "a.mp4", 4, limits=MediaLimits(index_bytes=10))
    assert torch.equal(small.frames, read_video(tmp_path / "a.mp4", 4).frames)


@pytest.mark.parametrize(("frames", "size_px", "message"), [(0, 224, "frames is 0"), (2, 0, "size_px is 0")])
def test_senseless_requests_are_refused(frames: int, size_px: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_video(tmp_path / "a.mp4", frames, size_px)


def test_errors_survive_the_way_from_a_loader_worker() -> None:
    error = pickle.loads(pickle.dumps(TruncatedMedia("a.mp4", "is cut off.")))
    assert isinstance(error, TruncatedMedia)
    assert isinstance(error, MediaError)
    assert str(error) == "a.mp4: is cut off."
    assert error.path == Path("a.mp4")


def test_real_clips_index_equals_sequential(real_clips: Path) -> None:
    clips = sorted(real_clips.glob("AVUIE_2/*/video/*.mp4"))
    assert clips
    for path in clips:
        index, plain = (read_video(path, 10, access=a) for a in ("index", "sequential"))
        assert torch.equal(index.frames, plain.frames)
        assert index.duration_s == pytest.approx(10.0, abs=0.1)
