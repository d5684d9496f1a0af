"""The packet index gives the frames of a plain sequential decode, bit for bit, or is not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from crab_lightning.media import UnreadableMedia, read_video, write_video
from crab_lightning.media.index import PacketIndex
from crab_lightning.media.pick import Picked, pick_frames
from crab_lightning.media.video import frame_indices
from tests.media.clips import encode, moving_texture, remux, x264


def _convert(frame: av.VideoFrame) -> torch.Tensor:
    return torch.from_numpy(frame.to_ndarray(format="rgb24"))


def _plain(path: Path) -> list[torch.Tensor]:
    with av.open(str(path)) as container:
        return [_convert(frame) for frame in container.decode(video=0)]


def _pick(path: Path, frames: int) -> Picked:
    return pick_frames(path, lambda total: frame_indices(total, frames), _convert)


def _mpeg4(path: Path, **options: str) -> None:
    write_video(path, moving_texture(), 12, keyframe_every=8, options=options)


def _vp9(path: Path) -> None:
    write_video(
        path,
        moving_texture(),
        12,
        keyframe_every=16,
        options={"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "12"},
    )


def _vfr(path: Path) -> None:
    times_s = [0.04 * i + 0.01 * (i % 3) for i in range(48)]
    options = {"preset": "medium", "bf": "2"}
    write_video(path, moving_texture(), 25, keyframe_every=12, options=options, times_s=times_s)


def _edit_list(path: Path) -> None:
    """A clip cut inside a GOP without re-encoding: the frames before the cut are decoded but not shown."""
    whole = path.with_name("whole.mp4")
    x264(whole)

    def shift(packet: av.Packet) -> av.Packet:
        packet.pts -= 5 * 1024
        packet.dts -= 5 * 1024
        return packet

    remux(whole, path, shift)


def _headless(path: Path) -> None:
    whole = path.with_name("whole.mp4")
    x264(whole)
    remux(whole, path, lambda packet: packet if packet.pts else None)


def _packed(path: Path) -> None:
    """A clip that says it packs two frames into some packets, as DivX did."""
    whole = path.with_name("whole.avi")
    _mpeg4(whole, bf="2")

    def sign(packet: av.Packet) -> av.Packet:
        signed = av.Packet(b"\x00\x00\x01\xb2DivX503b1393p" + bytes(packet))
        signed.pts, signed.dts, signed.time_base = packet.pts, packet.dts, packet.time_base
        signed.is_keyframe = packet.is_keyframe
        return signed

    remux(whole, path, sign)


def _changed_parameters(path: Path) -> None:
    """Two clips joined: the second brings its own parameter sets under the same numbers, but only once."""
    for number, qp in enumerate((10, 40)):
        x264(path.with_name(f"{number}.mp4"), f"repeat-headers=1:qp={qp}")
    with av.open(str(path.with_name("1.mp4"))) as second:
        later = [packet for packet in second.demux(video=0) if packet.size]
    with av.open(str(path.with_name("0.mp4"))) as first, av.open(str(path), "w") as out:
        track = first.streams.video[0]
        copy = out.add_stream_from_template(track)
        packets = [packet for packet in first.demux(track) if packet.size]
        shift = len(packets) * packets[0].duration
        for number, packet in enumerate(packets + later):
            bare = packet
            if packet.is_keyframe and number not in (0, len(packets)):
                bare = av.Packet(_without_parameter_sets(bytes(packet)))
                bare.pts, bare.dts, bare.time_base = packet.pts, packet.dts, packet.time_base
                bare.is_keyframe = True
            if number >= len(packets):
                bare.pts, bare.dts = bare.pts + shift, bare.dts + shift
            bare.stream = copy
            out.mux(bare)


def _without_parameter_sets(data: bytes) -> bytes:
    kept, at = b"", 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4] & 31 not in (7, 8):
            kept += data[at:end]
        at = end
    return kept


INDEXED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "h264 with B-frames": ("a.mp4", x264),
    "h264 in mkv": ("a.mkv", x264),
    "h264 in avi-like mov": ("a.mov", x264),
    "one long GOP": ("a.mp4", lambda p: x264(p, keyframe_every=250)),
    "open GOP": ("a.mp4", lambda p: x264(p, "open-gop=1")),
    "headers repeated at every key frame": ("a.mp4", lambda p: x264(p, "repeat-headers=1")),
    "intra refresh": ("a.mp4", lambda p: x264(p, "intra-refresh=1:bframes=0")),
    "variable frame rate": ("a.mp4", _vfr),
    "variable frame rate in mkv": ("a.mkv", _vfr),
    "edit list": ("a.mp4", _edit_list),
    "MPEG-4 avi": ("a.avi", _mpeg4),
    "VP9 with hidden frames": ("a.webm", _vp9),
    "MPEG-4 avi with B-frames": ("a.avi", lambda p: _mpeg4(p, bf="2")),
    "motion JPEG": ("a.avi", lambda p: encode(p, "mjpeg", moving_texture(), pix_fmt="yuvj420p")),
    "parameter sets that change midway": ("a.mp4", _changed_parameters),
    "two frames": ("a.mp4", lambda p: x264(p, frames=moving_texture(2))),
    "one frame": ("a.mp4", lambda p: x264(p, frames=moving_texture(1))),
}
SEQUENTIAL: dict[str, tuple[str, Callable[[Path], None]]] = {
    "HEVC": (
        "a.mp4",
        lambda p: encode(p, "libx265", moving_texture(), options={"x265-params": "log-level=none"}),
    ),
    "transport stream": (
        "a.ts",
        lambda p: encode(p, "libx264", moving_texture(), options={"preset": "ultrafast"}),
    ),
    "interlaced": ("a.mp4", lambda p: x264(p, "tff=1")),
    "first key frame missing": ("a.mp4", _headless),
    "packed B-frames": ("a.avi", _packed),
}


@pytest.mark.parametrize("case", INDEXED)
@pytest.mark.parametrize("frames", [1, 4, 10, 60])
def test_index_equals_sequential(case: str, frames: int, tmp_path: Path) -> None:
    name, make = INDEXED[case]
    make(tmp_path / name)
    plain = _plain(tmp_path / name)
    picked = _pick(tmp_path / name, frames)
    assert picked.through_index
    assert picked.total == len(plain)
    assert picked.indices == frame_indices(len(plain), frames)
    assert all(torch.equal(picked.pictures[i], plain[i]) for i in picked.indices)


@pytest.mark.parametrize("case", SEQUENTIAL)
def test_untrusted_index_falls_back_to_sequential(case: str, tmp_path: Path) -> None:
    name, make = SEQUENTIAL[case]
    make(tmp_path / name)
    plain = _plain(tmp_path / name)
    picked = _pick(tmp_path / name, 10)
    assert not picked.through_index
    assert picked.total == len(plain)
    assert all(torch.equal(picked.pictures[i], plain[i]) for i in picked.indices)


def test_edit_list_case_holds_frames_that_are_not_shown(tmp_path: Path) -> None:
    _edit_list(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        discarded = sum(packet.is_discard for packet in container.demux(video=0))
    assert discarded > 0
    assert read_video(tmp_path / "a.mp4", 4).total_frames == 48 - discarded


def test_joined_case_really_changes_its_parameter_sets(tmp_path: Path) -> None:
    # Decoded alone with the first set, the second half looks different: what a blind jump would give.
    _changed_parameters(tmp_path / "a.mp4")
    plain = _plain(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        track = container.streams.video[0]
        packets = [packet for packet in container.demux(track) if packet.size]
        last_key = max(i for i, packet in enumerate(packets) if packet.is_keyframe)
        blind = [_convert(f) for p in [*packets[last_key:], None] for f in track.codec_context.decode(p)]
    assert not torch.equal(blind[0], plain[last_key])


def test_few_frames_decode_few_packets(tmp_path: Path) -> None:
    x264(tmp_path / "a.mp4", "keyint=6:min-keyint=6:scenecut=0")
    with av.open(str(tmp_path / "a.mp4")) as container:
        index = PacketIndex.of(tmp_path / "a.mp4", container, container.streams.video[0])
    segments = index.segments({index.shown_pts[0], index.shown_pts[-1]})
    assert sum(s.last + 1 - s.first for s in segments) <= 7


def _damaged(clip: Path, first: int, last: int) -> Path:
    write_video(clip, moving_texture(60), 12, keyframe_every=1)
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[first:last]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    clip.write_bytes(bytes(data))
    return clip


def test_damage_inside_the_file_is_an_error_that_counts_frames(tmp_path: Path) -> None:
    clip = _damaged(tmp_path / "a.mp4", 20, 40)
    with pytest.raises(UnreadableMedia, match=r"a\.mp4: only 40 of 60 frames could .* convert it"):
        read_video(clip, 10)


def test_a_single_lost_frame_is_counted(tmp_path: Path) -> None:
    clip = read_video(_damaged(tmp_path / "a.mp4", 20, 21), 60)
    assert (clip.total_frames, clip.lost_frames) == (59, 1)
