from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crab_lightning import media
from crab_lightning.data.cache import shards as cache_shards
from crab_lightning.data.cache.recipes import AudioRecipe, Decoded, ImageRecipe, VideoRecipe
from crab_lightning.data.cache.shards import CacheFull, CorruptRecord, ShardStore
from crab_lightning.data.cache.store import CacheError, MediaCache
from crab_lightning.data.loading import LoadedMedia, load_media
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import AudioWindow
from tests.data.world import DATASETS

VIDEO = VideoRecipe(2, 28)
LIMITS = media.MediaLimits()


@pytest.fixture
def clip(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(root / "source/3.mp4", tmp_path / "clip.mp4"))


def same(one: LoadedMedia, other: LoadedMedia) -> bool:
    pairs = [
        *zip(one.videos, other.videos, strict=True),
        *zip(one.images, other.images, strict=True),
        *zip(one.audios, other.audios, strict=True),
    ]
    alike = all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    return alike and one.seconds_per_grid == other.seconds_per_grid


@pytest.mark.parametrize("geometry", ["released", "plain"])
@pytest.mark.parametrize("name", list(DATASETS))
def test_cached_sample_equals_the_decoded_one_bit_for_bit(
    root: Path, tmp_path: Path, name: str, geometry: Any
) -> None:
    sample = read_manifest(root, name, DATASETS[name], "train")[1]
    decoded = load_media(sample, DATASETS[name], geometry)
    for opened in range(2):  # written, then read by a process that did not write it
        cache = MediaCache(tmp_path / "cache")
        assert same(load_media(sample, DATASETS[name], geometry, cache), decoded)
        assert (cache.stats.hits > 0) == (opened == 1)
        assert (cache.stats.stored > 0) == (opened == 0)


def test_sound_that_16_bits_cannot_hold_is_kept_as_it_is(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    for number, sound in enumerate(
        (torch.tensor([0.1, -2.0, 1.5]), torch.tensor([-0.0, 0.25]), torch.tensor([0.25, -1.0, 0.0]))
    ):
        store.append([(number, 0)], sound, 0.0)
        record = store.find((number, 0))
        assert record is not None
        assert record.kind == (cache_shards._PCM16 if number == 2 else cache_shards._FLOAT32)
        assert torch.equal(store.load(record).view(torch.int32), sound.view(torch.int32))


def test_equal_files_share_a_record(clip: Path, tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache")
    cache.read(clip, VIDEO)
    twin = Path(shutil.copy(clip, tmp_path / "twin.mp4"))
    cache.read(twin, VIDEO)
    assert (cache.stats.stored, cache.stats.shared) == (1, 1)
    cache.read(twin, VIDEO)
    assert cache.stats.hits == 1


def test_changed_file_misses_even_with_its_old_length_and_modification_time(
    root: Path, clip: Path, tmp_path: Path
) -> None:
    cache = MediaCache(tmp_path / "cache")
    before = cache.read(clip, VIDEO)
    stat, data = clip.stat(), (root / "source/4.mp4").read_bytes()
    clip.write_bytes(data.ljust(stat.st_size, b"\0")[: max(stat.st_size, len(data))])
    os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = cache.read(clip, VIDEO)
    assert not torch.equal(before.tensor, after.tensor)
    assert torch.equal(after.tensor, VIDEO.decode(clip, LIMITS).tensor)


def test_every_part_of_a_recipe_makes_another_record() -> None:
    window = AudioWindow("strided")
    recipes = [
        VIDEO,
        VideoRecipe(3, 28),
        VideoRecipe(2, 30),
        ImageRecipe(28),
        ImageRecipe(30),
        AudioRecipe(window, None),
        *(AudioRecipe(replace(window, **{k: 3}), None) for k in ("units", "every", "before", "after")),
        *(AudioRecipe(AudioWindow(kind), None) for kind in ("all", "units", "head")),
        AudioRecipe(AudioWindow("head", head_s=2.0), None),
        AudioRecipe(AudioWindow("one_unit"), 1),
        AudioRecipe(AudioWindow("one_unit"), 2),
        AudioRecipe(AudioWindow("one_unit", units=5), 2),
    ]
    assert len({recipe.name() for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_record_is_decoded_again_replaced_and_reported(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    whole = MediaCache(tmp_path / "cache").read(clip, VIDEO)
    (shard,) = (tmp_path / "cache/shards").glob("*.bin")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data if damage == "flip" else data[:-100])
    cache = MediaCache(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cache.read(clip, VIDEO).tensor, whole.tensor)
    assert (cache.stats.repaired, cache.stats.stored, cache.stats.hits) == (1, 1, 0)
    assert "is damaged" in caplog.text
    later = MediaCache(tmp_path / "cache")
    assert torch.equal(later.read(clip, VIDEO).tensor, whole.tensor)
    assert (later.stats.repaired, later.stats.hits) == (0, 1)


def test_a_shard_cut_off_while_it_is_open_is_noticed(clip: Path, tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache")
    whole = cache.read(clip, VIDEO)
    assert torch.equal(cache.read(clip, VIDEO).tensor, whole.tensor)
    (shard,) = (tmp_path / "cache/shards").glob("*.bin")
    os.truncate(shard, 1000)
    assert torch.equal(cache.read(clip, VIDEO).tensor, whole.tensor)
    assert cache.stats.repaired == 1


def test_damaged_and_half_written_entries_are_passed_over(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    for number in range(3):
        store.append([(number, 7)], torch.full((4,), number, dtype=torch.uint8), 0.0)
    (index,) = tmp_path.glob("*.idx")
    data = bytearray(index.read_bytes())
    data[30] ^= 1
    index.write_bytes(data + b"half an entry")
    fresh = ShardStore(tmp_path)
    assert [fresh.find((number, 7)) is not None for number in range(3)] == [False, True, True]


def test_the_folder_stays_below_its_size_and_says_so_once(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = 2 * 3 * 28 * 28
    cache = MediaCache(tmp_path / "cache", max_bytes=2 * record + 2000)
    clips = [root / f"source/{i}.mp4" for i in range(5)]
    for clip in clips * 2:
        assert torch.equal(cache.read(clip, VIDEO).tensor, VIDEO.decode(clip, LIMITS).tensor)
    assert (cache.stats.stored, cache.stats.unstored, cache.stats.hits) == (2, 6, 2)
    assert sum(p.stat().st_size for p in (tmp_path / "cache/shards").iterdir()) <= 2 * record + 2000
    assert caplog.text.count("has reached its largest size") == 1


def test_a_full_disk_stops_writing_and_not_reading(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = MediaCache(tmp_path / "cache")
    cache.read(root / "source/0.mp4", VIDEO)
    write = os.write

    def full(file: int, data: Any) -> int:
        if len(data) > 500:
            write(file, data[:100])
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(cache_shards.os, "write", full)
    fresh = cache.read(root / "source/1.mp4", VIDEO)
    monkeypatch.undo()
    assert torch.equal(fresh.tensor, VIDEO.decode(root / "source/1.mp4", LIMITS).tensor)
    assert "No space left" in caplog.text
    cache.read(root / "source/0.mp4", VIDEO)
    assert cache.stats.hits == 1
    (shard,) = (tmp_path / "cache/shards").glob("*.bin")
    assert shard.stat().st_size == 2 * 3 * 28 * 28  # what was written in part is taken back


def test_broken_files_raise_as_without_a_cache(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(media.UnreadableMedia):
        cache.read(tmp_path / "broken.mp4", VIDEO)
    with pytest.raises(media.MissingMedia):
        cache.read(tmp_path / "missing.mp4", VIDEO)
    assert cache.stats.stored == 0


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CacheError, match="is not a media cache"):
        MediaCache(tmp_path)
    (tmp_path / "cache.json").write_text('{"format": 99}')
    with pytest.raises(CacheError, match="format 99"):
        MediaCache(tmp_path)


def fill(folder: Path, first: int, last: int) -> None:
    store = ShardStore(folder)
    for number in range(first, last):
        data = torch.full((5000,), number % 251, dtype=torch.uint8)
        try:
            store.append([(number % 100, 1)], data, 0.0)
        except CacheFull:
            return


def intact(folder: Path) -> int:
    """Return how many keys are found, after reading each of them."""
    store, found = ShardStore(folder), 0
    for number in range(100):
        record = store.find((number, 1))
        if record is not None:
            tensor = store.load(record)
            assert tensor.shape == (5000,)
            assert bool((tensor == tensor[0]).all())
            found += 1
    return found


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=fill, args=(tmp_path, i * 40, i * 40 + 80)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert intact(tmp_path) == 100


def test_writers_killed_at_any_moment_leave_whole_records(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    killed = 0
    for trial in range(4):
        writer = context.Process(target=fill, args=(tmp_path, 0, 10**9))  # never done by itself
        writer.start()
        time.sleep(0.03 + 0.02 * trial)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        killed += writer.exitcode == -signal.SIGKILL
        intact(tmp_path)
    assert killed > 0
    assert intact(tmp_path) > 0


def test_a_forked_process_writes_a_shard_of_its_own(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.append([(1, 1)], torch.zeros(8, dtype=torch.uint8), 0.0)
    child = multiprocessing.get_context("fork").Process(
        target=store.append, args=([(2, 1)], torch.ones(8, dtype=torch.uint8), 0.0)
    )
    child.start()
    child.join()
    store._refreshed = 0.0
    assert store.find((2, 1)) is None
    assert store.refresh()
    record = store.find((2, 1))
    assert record is not None
    assert store.load(record).tolist() == [1] * 8
    assert len(list(tmp_path.glob("*.bin"))) == 2


def test_newest_record_of_a_key_holds_and_old_ones_stay_readable(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.append([(1, 1)], torch.zeros(8, dtype=torch.uint8), 0.0)
    old = store.find((1, 1))
    store.append([(1, 1)], torch.ones(8, dtype=torch.uint8), 0.0)
    for view in (store, ShardStore(tmp_path)):
        record = view.find((1, 1))
        assert record is not None
        assert view.load(record).tolist() == [1] * 8
    assert old is not None
    assert store.load(old).tolist() == [0] * 8
    with pytest.raises(CorruptRecord, match="ends before"):
        store.load(replace(old, offset=10**6))


def test_cached_values_are_the_callers_own(clip: Path, tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache")
    first: Decoded = cache.read(clip, VIDEO)
    kept = first.tensor.clone()
    cache.read(clip, VIDEO).tensor.zero_()
    assert torch.equal(cache.read(clip, VIDEO).tensor, kept)


def test_frames_stretched_in_another_way_are_another_record(clip: Path, tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache")
    cache.read(clip, VIDEO)
    fast = VideoRecipe(2, 28, "torch_uint8")
    assert torch.equal(cache.read(clip, fast).tensor, fast.decode(clip, LIMITS).tensor)
    assert cache.stats.stored == 2


def test_a_pipe_in_the_place_of_a_shard_or_an_index_does_not_hang(clip: Path, tmp_path: Path) -> None:
    whole = MediaCache(tmp_path / "cache").read(clip, VIDEO)
    (shard,) = (tmp_path / "cache/shards").glob("*.bin")
    shard.unlink()
    os.mkfifo(shard)
    os.mkfifo(shard.with_name("0" * 16 + ".idx"))
    cache = MediaCache(tmp_path / "cache")
    assert torch.equal(cache.read(clip, VIDEO).tensor, whole.tensor)
    assert cache.stats.repaired == 1


@pytest.mark.parametrize(
    "forged",
    [
        {"kind": 9},
        {"shape": (2**32 - 1,) * 4, "bytes": 2**62},
        {"bytes": 2**63 + 5},
        {"bytes": 0},
        {"offset": 2**64 - 1},
        {"shape": (3, 28, 28, 2)},
        {"shape": (2 * 3 * 28 * 28, 0, 0, 0), "dims": 1},
        {"duration_s": float("nan")},
        {"duration_s": -1.0},
        {"shard": 12345},
    ],
    ids=str,
)
def test_entries_that_no_cache_has_written_are_passed_over(
    forged: dict[str, Any], clip: Path, tmp_path: Path
) -> None:
    whole = MediaCache(tmp_path / "cache").read(clip, VIDEO)
    (index,) = (tmp_path / "cache/shards").glob("*.idx")
    entries = np.frombuffer(index.read_bytes(), cache_shards._ENTRY).copy()
    for name, value in forged.items():
        entries[name] = value
    bodies = [entry.tobytes()[: cache_shards._BODY_BYTES] for entry in entries]
    index.write_bytes(b"".join(body + zlib.crc32(body).to_bytes(4, "little") for body in bodies))
    cache = MediaCache(tmp_path / "cache")
    assert torch.equal(cache.read(clip, VIDEO).tensor, whole.tensor)
    assert cache.stats.repaired == 1
