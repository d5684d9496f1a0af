"""One row of one manifest, with the scenes behind it and the files it names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from crab_lightning.mini.world.scenes import Scene

FileKind = Literal["video", "audio", "image", "mask", "classes"]
FPS = 5
"""Frames per second of every clip; ten frames spread over 10 s then fall into ten different seconds."""


@dataclass(frozen=True)
class MediaFile:
    """A file of the tree and what it shows.

    Args:
        path: Relative to the folder of the annotations.
        kind: ``mask`` paints the chosen objects in colour, ``classes`` in grey category numbers.
        scene: Where it comes from.
        time_s: Moment of a picture.
        objects: Objects painted in a mask.
    """

    path: str
    kind: FileKind
    scene: Scene
    time_s: float = 0.0
    objects: tuple[int, ...] = ()


@dataclass(frozen=True)
class Item:
    """One question, in memory.

    Args:
        dataset: Released task id.
        split: ``train`` or ``test``.
        index: Number within the split.
        clip: Name of the recording.
        fields: Every key of the train and the test row.
        target: Supervised text.
        answer: What counts as the answer: a class, a word, a tag string or a box.
        videos: Scenes shown, in conversation order.
        audios: Scenes heard, in conversation order.
        image: Scene and moment of the picture, for the four picture tasks.
        unit: Index of the audio unit that is heard with the picture.
        files: Files of the tree.
    """

    dataset: str
    split: str
    index: int
    clip: str
    fields: dict[str, Any]
    target: str
    answer: str
    videos: tuple[Scene, ...] = ()
    audios: tuple[Scene, ...] = ()
    image: tuple[Scene, float] | None = None
    unit: int | None = None
    files: tuple[MediaFile, ...] = ()


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def clip_name(seed: int, dataset: str, split: str, index: int, part: str = "") -> str:
    """Return eleven characters that look like a video id and tell nothing about the clip."""
    key = f"{seed}/{dataset}/{split}/{index}/{part}".encode()
    number = int.from_bytes(hashlib.blake2s(key, digest_size=16).digest(), "big")
    letters = []
    for _ in range(11):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)


def clip_files(
    dataset: str, stem: str, scene: Scene, video: str = "mp4", audio: str = "mp3"
) -> tuple[MediaFile, MediaFile]:
    """Return the video and the audio file of one recording."""
    return (
        MediaFile(f"{dataset}/video/{stem}.{video}", "video", scene),
        MediaFile(f"{dataset}/audio/{stem}.{audio}", "audio", scene),
    )
