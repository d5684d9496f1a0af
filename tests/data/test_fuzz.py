"""Damaged and hostile files through reader and check: a typed answer, no crash, no hang, no hoarding."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning import media
from crab_lightning.data.check.files import FileJob, inspect_file
from crab_lightning.data.check.pool import Failure, run_isolated
from crab_lightning.data.manifests.reader import ManifestError, read_manifest, survey_manifest
from crab_lightning.structures import DatasetSpec
from crab_lightning.tasks import ActionRecognition
from tests.data.damage import DAMAGES, damaged
from tests.data.trees import manifest, media_bytes, write_tree

KINDS: dict[str, Any] = {
    "mp4": "video",
    "avi": "video",
    "mp3": "audio",
    "wav": "audio",
    "jpg": "image",
    "png": "mask",
}
LIMITS = media.MediaLimits(pixels=2**22, duration_s=600.0)
GIB = 2**30


def read(path: Path) -> str:
    """Read a file as a run does, and check it; return what came of it."""
    try:
        kind = KINDS[path.suffix[1:]]
        if kind == "video":
            frames = media.read_video(path, 4, 32, limits=LIMITS).frames
            assert frames.shape == (4, 3, 32, 32)
            assert frames.dtype == torch.uint8
        elif kind == "audio":
            assert media.read_audio(path, limits=LIMITS).ndim == 1
        elif kind == "image":
            assert media.read_image(path, 32, limits=LIMITS).shape == (3, 32, 32)
        else:
            assert media.read_mask(path, 32, limits=LIMITS).shape == (32, 32)
        came = "read"
    except media.MediaError as err:
        came = (
            type(err).__name__ if str(path) in str(err) else f"{type(err).__name__} without the file's name"
        )
    for frames_wanted in (0, 2):
        inspect_file(FileJob(path, kind, frames_wanted))
    return came


def write_damaged(folder: Path, first: int, count: int) -> list[Path]:
    paths = []
    for seed in range(first, first + count):
        suffix = list(KINDS)[(seed // len(DAMAGES)) % len(KINDS)]
        other = media_bytes(list(KINDS)[seed % len(KINDS) - 1])
        path = folder / f"{seed}.{suffix}"
        path.write_bytes(damaged(media_bytes(suffix), seed, other))
        paths.append(path)
    return paths


def fuzz(folder: Path, first: int, count: int) -> Counter[str]:
    paths = write_damaged(folder, first, count)
    began = time.monotonic()
    results = dict(run_isolated(read, paths, 1, timeout_s=60, memory_bytes=2 * GIB))
    failures = {path.name: r for path, r in results.items() if isinstance(r, Failure)}
    assert failures == {}
    outcomes = Counter(f"{path.suffix[1:]} {result}" for path, result in results.items())
    print(f"{count} files in {time.monotonic() - began:.1f} s: {dict(sorted(outcomes.items()))}")
    assert sum(outcomes.values()) == count
    assert not any("without" in outcome for outcome in outcomes)
    refused = sum(n for name, n in outcomes.items() if not name.endswith(" read"))
    assert 0.2 * count < refused < count  # damage is noticed, and not every file is refused
    return outcomes


def test_324_damaged_media_files_give_pictures_or_a_typed_error(tmp_path: Path) -> None:
    fuzz(tmp_path, 0, 324)


@pytest.mark.slow
def test_1080_damaged_media_files_give_pictures_or_a_typed_error(tmp_path: Path) -> None:
    fuzz(tmp_path, 1000, 1080)


def test_a_track_of_an_unknown_codec_is_a_typed_error(tmp_path: Path) -> None:
    video, sound = bytearray(media_bytes("mp4")), bytearray(media_bytes("wav"))
    at = video.find(b"avc1", video.find(b"stsd"))
    video[at : at + 4] = b"qqqq"
    sound[20:22] = b"\x77\x66"
    (tmp_path / "clip.mp4").write_bytes(video)
    (tmp_path / "clip.wav").write_bytes(sound)
    with pytest.raises(media.MediaError, match=r"clip\.mp4"):
        media.read_video(tmp_path / "clip.mp4", 2)
    with pytest.raises(media.MediaError, match=r"clip\.wav"):
        media.read_audio(tmp_path / "clip.wav")
    assert not media.probe(tmp_path / "clip.wav").has_audio


def test_reader_bounds_what_a_picture_may_declare(tmp_path: Path) -> None:
    data = bytearray(media_bytes("png"))
    at = data.find(b"IHDR") + 4
    data[at : at + 8] = (65_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(media.MediaError, match=r"bomb\.png"):
        media.read_mask(tmp_path / "bomb.png", 32)


TEXT = json.dumps(manifest("ks", "train"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("fuzz"), ["ks", "avqa", "ave"], media=False)


def survey(root: Path, data: bytes, layout: str = "ks") -> str:
    (root / f"AVUIE_2/{layout}/train.json").write_bytes(data)
    spec = DatasetSpec("task", layout)
    try:
        samples, errors, _ = survey_manifest(root, layout, spec, "train")
    except ManifestError as err:
        return "file refused" if "train.json" in str(err) else f"refused without a name: {err}"
    task, scored = ActionRecognition(), replace(spec, classes=["playing drums", "chopping wood"])
    for sample in samples if layout == "ks" else ():
        task.parse(sample.target or "", sample, scored)
        assert not any(".." in path.parts for path in (*sample.videos, *sample.audios))
    if errors:
        with pytest.raises(ManifestError):
            read_manifest(root, layout, spec, "train", check_media=False)
    return "rows refused" if errors else "read"


def test_300_damaged_manifests_are_read_or_refused_by_name(tree: Path) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(300):
        outcomes[survey(tree, damaged(TEXT.encode(), seed, media_bytes("mp4")))] += 1
    print(dict(outcomes))
    assert outcomes.keys() <= {"file refused", "rows refused", "read"}
    assert sum(outcomes.values()) == 300
    assert outcomes["file refused"] > 0
    assert outcomes["rows refused"] + outcomes["read"] > 0


def row(layout: str, **values: Any) -> bytes:
    return json.dumps([{**manifest(layout, "train")[0], **values}]).encode()


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"[" * 200_000, "file refused"),
        (b'{"a":' * 200_000, "file refused"),
        (b"[" + b"9" * 100_000 + b"]", "file refused"),
        (b'[{"a": NaN}]', "file refused"),
        (b'[{"a": 1, "a": 2}]', "file refused"),
        (b"\xff\xfe[\x00]\x00", "file refused"),
        (b"\x00" * 1000, "file refused"),
        (b"", "file refused"),
        (b"null", "file refused"),
        (b"[1, null, [], {}]", "rows refused"),
        (row("ks", action=nested(300)), "rows refused"),
        (row("ks", video_path="../../etc/passwd"), "rows refused"),
        (row("ks", video_path="/etc/passwd"), "rows refused"),
        (row("ks", video_path="C:\\x.mp4"), "rows refused"),
        (row("ks", video_path="a\0b"), "rows refused"),
        (row("ks", video_path="v" * 100_000), "read"),
        (row("ks", label="\ud800"), "rows refused"),
        (row("ks", label="<answer>" * 20_000), "read"),
        (row("ks", unknown=nested(300)), "read"),
    ],
)
def test_hostile_manifests_get_the_answer_they_deserve(tree: Path, data: bytes, outcome: str) -> None:
    began = time.monotonic()
    assert survey(tree, data) == outcome
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("layout", "values"),
    [
        ("ave", {"start_time": 10**4000}),
        ("ave", {"end_time": "9" * 4000}),
        ("ave", {"end_time": 1e300}),
        ("ave", {"end_time": -1}),
        ("avqa", {"type": "[" * 100_000}),
        ("avqa", {"type": nested(300)}),
    ],
)
def test_absurd_numbers_and_nested_strings_are_row_errors(
    tree: Path, layout: str, values: dict[str, Any]
) -> None:
    assert survey(tree, row(layout, **values), layout) == "rows refused"
