"""Two candidates for one clip: ``a2v`` (which video is heard), ``v2a`` (which sound is seen)."""

from __future__ import annotations

from crab_lightning.mini.world.item import Item, MediaFile, clip_name
from crab_lightning.mini.world.phrases import a, hear
from crab_lightning.mini.world.scenes import Rng, Scene, balanced, hidden_sound, place_objects, rng_for
from crab_lightning.mini.world.vocabulary import CATEGORIES

CLIP_S = 4
_ANSWERS = ("one", "two")


def _pair(dataset: str, split: str, index: int, seed: int) -> tuple[Rng, list[int], int]:
    """Return the random stream, two categories in order and which of them is asked for."""
    rng = rng_for(seed, dataset, split, index)
    correct = balanced(seed, index, 2, dataset, split)
    query = balanced(seed, index, len(CATEGORIES), dataset, split, "query")
    other = (query + 1 + int(rng.integers(len(CATEGORIES) - 1))) % len(CATEGORIES)
    return rng, [query, other] if correct == 0 else [other, query], correct


def _shown(rng: Rng, category: int) -> Scene:
    objects = place_objects(rng, [category], duration_s=CLIP_S)
    return Scene(objects, CLIP_S, "grey", "objects", seed=int(rng.integers(1 << 30)))


def _played(rng: Rng, category: int) -> Scene:
    obj = hidden_sound(rng, category, ((0, CLIP_S),))
    return Scene((obj,), CLIP_S, "grey", "objects", seed=int(rng.integers(1 << 30)))


def build_a2v(split: str, index: int, seed: int) -> Item:
    """One sound, two videos."""
    rng, pair, correct = _pair("a2v", split, index, seed)
    audio = _played(rng, pair[correct])
    videos = tuple(_shown(rng, c) for c in pair)
    names = [CATEGORIES[c].name for c in pair]
    stems = [clip_name(seed, "a2v", split, index, part) for part in ("audio", "first", "second")]
    target = (
        f"{hear([names[correct]])} I see {a(names[0])} first and {a(names[1])} second. "
        f"The {names[correct]} is {('first', 'second')[correct]}. <answer>{_ANSWERS[correct]}</answer>."
    )
    fields = {
        "video1_path": f"{stems[1]}.mp4",
        "video2_path": f"{stems[2]}.mp4",
        "audio_path": f"{stems[0]}.mp3",
        "correct_video": _ANSWERS[correct],
        "audio_event": names[correct],
        "video1_event": names[0],
        "video2_event": names[1],
        "label": target,
    }
    files = (
        MediaFile(f"a2v/audio/{stems[0]}.mp3", "audio", audio),
        MediaFile(f"a2v/video/{stems[1]}.mp4", "video", videos[0]),
        MediaFile(f"a2v/video/{stems[2]}.mp4", "video", videos[1]),
    )
    return Item(
        "a2v", split, index, stems[0], fields, target, _ANSWERS[correct], videos, (audio,), files=files
    )


def build_v2a(split: str, index: int, seed: int) -> Item:
    """One video, two sounds."""
    rng, pair, correct = _pair("v2a", split, index, seed)
    video = _shown(rng, pair[correct])
    audios = tuple(_played(rng, c) for c in pair)
    names = [CATEGORIES[c].name for c in pair]
    stems = [clip_name(seed, "v2a", split, index, part) for part in ("video", "first", "second")]
    target = (
        f"I see {a(names[correct])}. I hear {a(names[0])} first and {a(names[1])} second. "
        f"The {names[correct]} is {('first', 'second')[correct]}. <answer>{_ANSWERS[correct]}</answer>."
    )
    fields = {
        "video_path": f"{stems[0]}.mp4",
        "audio1_path": f"{stems[1]}.mp3",
        "audio2_path": f"{stems[2]}.mp3",
        "correct_audio": _ANSWERS[correct],
        "audio1_event": names[0],
        "audio2_event": names[1],
        "video_event": names[correct],
        "label": target,
    }
    files = (
        MediaFile(f"v2a/video/{stems[0]}.mp4", "video", video),
        MediaFile(f"v2a/audio/{stems[1]}.mp3", "audio", audios[0]),
        MediaFile(f"v2a/audio/{stems[2]}.mp3", "audio", audios[1]),
    )
    return Item(
        "v2a", split, index, stems[0], fields, target, _ANSWERS[correct], (video,), audios, files=files
    )
