"""The 19 datasets of Mini AV-UIE, the keys of their rows, and the number of clips of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from crab_lightning.mini.world.families.captions import build_avcap
from crab_lightning.mini.world.families.events import build_ave, build_avvp, build_unav
from crab_lightning.mini.world.families.general_qa import build_avqa_thu
from crab_lightning.mini.world.families.grounding import build_ms3, build_single_source
from crab_lightning.mini.world.families.matching import build_matching
from crab_lightning.mini.world.families.music_qa import QUESTIONS_PER_CLIP, build_avqa
from crab_lightning.mini.world.families.performers import build_action, build_emotion
from crab_lightning.mini.world.families.referring import build_ref_avs
from crab_lightning.mini.world.item import Item

Builder = Callable[[str, int, int], Item]


@dataclass(frozen=True)
class Dataset:
    """One of the 19 datasets.

    Args:
        build: Makes an item from ``(split, index, seed)``.
        train: Keys of a row of the released ``train.json``, separated by spaces.
        test: Keys of a row of the released ``test.json``; empty if no such file was released.
        rows_per_clip: Number of rows that ask about the same clip.
    """

    build: Builder
    train: str
    test: str = ""
    rows_per_clip: int = 1


def _emotion(name: str, key: str) -> Dataset:
    return Dataset(
        partial(build_emotion, name), f"{_AV} {key} label", "" if name == "mer24" else f"{_AV} {key}"
    )


_AV = "video_path audio_path"
_A2V = "video1_path video2_path audio_path correct_video"
_V2A = "video_path audio1_path audio2_path correct_audio"
_AVQA = f"{_AV} video_id question_id type question answer"
_THU = f"{_AV} id video_name video_id question_relation question_type multi_choice question_text answer"
_AVE = f"{_AV} event vid start_time end_time"
_AVVP = f"{_AV} filename vid event"
_AVS = "audio_path vid uid a_obj"

DATASETS: dict[str, Dataset] = {
    "a2v": Dataset(
        partial(build_matching, "a2v"), f"{_A2V} audio_event video1_event video2_event label", _A2V
    ),
    "v2a": Dataset(
        partial(build_matching, "v2a"), f"{_V2A} audio1_event audio2_event video_event label", _V2A
    ),
    "ks": Dataset(partial(build_action, "ks"), f"{_AV} action label", f"{_AV} action"),
    "ucf": Dataset(partial(build_action, "ucf"), f"{_AV} label new_label", f"{_AV} label"),
    "meld": _emotion("meld", "Emotion"),
    "mer24": _emotion("mer24", "discrete"),
    "cremad": _emotion("cremad", "emotion"),
    "mafw": _emotion("mafw", "emotion"),
    "dfew": _emotion("dfew", "emotion"),
    "avqa": Dataset(build_avqa, f"{_AVQA} label", _AVQA, rows_per_clip=QUESTIONS_PER_CLIP),
    "avqa_thu": Dataset(build_avqa_thu, f"{_THU} label", _THU),
    "ave": Dataset(build_ave, f"{_AVE} label_content", _AVE),
    "unav": Dataset(build_unav, f"{_AV} vid original_label label_content"),
    "avvp": Dataset(build_avvp, f"{_AVVP} label_content", _AVVP),
    "ms3": Dataset(build_ms3, f"image_path {_AVS} frame_idx label_content", f"visual_path {_AVS} frame_idx"),
    "s4": Dataset(
        partial(build_single_source, "s4"),
        f"image_path {_AVS} label_content",
        f"visual_path {_AVS} frame_idx",
    ),
    "ref_avs": Dataset(
        build_ref_avs,
        "image_path audio_path vid fid uid idx description output",
        "visual_path audio_path object split vid uid fid frame_idx",
    ),
    "arig": Dataset(
        partial(build_single_source, "arig"),
        "image_path audio_path a_obj label_content",
        "visual_path audio_path top_left bottom_right a_obj frame_idx",
    ),
    "avcap": Dataset(build_avcap, f"{_AV} video_id label_content"),
}
"""The datasets by their keys. ``arig`` asks about the clips of ``s4``."""

TEST_FRACTION = 0.2
"""Default for the fraction of a dataset's clips that its test file asks about, if it has a test file."""


def make_item(dataset: str, split: str, index: int, seed: int = 0) -> Item:
    """Return one question. The same arguments always give the same question.

    Args:
        dataset: Key of the dataset.
        split: ``train`` or ``test``.
        index: Number of the question in the split.
        seed: Seed of the whole Mini AV-UIE.

    Raises:
        ValueError: If there is no such dataset, or it has no such split.
    """
    if dataset not in DATASETS:
        raise ValueError(f"Mini AV-UIE has no dataset {dataset!r}; it has: {', '.join(DATASETS)}")
    if split not in ("train", "test") or (split == "test" and not DATASETS[dataset].test):
        splits = "train and test" if DATASETS[dataset].test else "train only"
        raise ValueError(f"{dataset} has no split {split!r}; it has {splits}")
    return DATASETS[dataset].build(split, index, seed)


def row_of(item: Item) -> dict[str, Any]:
    """Return the row of an item with the keys that the released manifest of its split has."""
    entry = DATASETS[item.dataset]
    return {key: item.fields[key] for key in (entry.train if item.split == "train" else entry.test).split()}


def share_out(clips: int, test_fraction: float = TEST_FRACTION) -> dict[str, tuple[int, int]]:
    """Distribute a number of clips over all datasets and splits.

    Args:
        clips: Number of clips.
        test_fraction: Fraction of each dataset's clips that its test file asks about, if it has a test file.

    Returns:
        For each dataset, its numbers of clips in train and in test. ``arig`` uses the clips of ``s4``, so
        these are not counted again.

    Raises:
        ValueError: If there are too few clips for all splits, or the fraction does not lie between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}; it must lie between 0 and 1, for example 0.2")
    splits = {name: 1 + bool(entry.test) for name, entry in DATASETS.items() if name != "arig"}
    least = sum(splits.values())
    if clips < least:
        raise ValueError(
            f"clips is {clips}; it must be at least {least}, one for every split of every dataset"
        )
    counts = dict.fromkeys(DATASETS, (0, 0))
    for number, (name, needed) in enumerate(splits.items()):
        # The totals are rounded, not the parts, so the sum of the parts is exact.
        before, after = (round((clips - least) * n / len(splits)) for n in (number, number + 1))
        mine = needed + after - before
        test = min(max(1, round(mine * test_fraction)), mine - 1) if needed == 2 else 0
        counts[name] = (mine - test, test)
    counts["arig"] = counts["s4"]
    return counts
