"""A row of a manifest with its scenes and its media files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from crab_lightning.mini.world.scenes import Scene

FileKind = Literal["video", "audio", "image", "mask", "classes"]
FPS = 5
"""Frames per second of every clip. Ten frames sampled from 10 s then lie in ten different seconds."""


@dataclass(frozen=True)
class MediaFile:
    """A media file of the tree, and what it holds.

    Args:
        path: Path relative to the folder that holds the manifests.
        kind: A ``mask`` shows the chosen objects in their colours; ``classes`` is a mask with the number of
            the category, from 1 on, in each pixel.
        scene: The scene that the file shows or plays.
        time_s: Time of a picture or mask in the scene.
        objects: Indices of the objects that a mask shows.
    """

    path: str
    kind: FileKind
    scene: Scene
    time_s: float = 0.0
    objects: tuple[int, ...] = ()


@dataclass(frozen=True)
class Item:
    """A question with its answer, its scenes and its files.

    Args:
        dataset: Key of the dataset.
        split: ``train`` or ``test``.
        index: Number of the question in the split.
        clip: Name of the clip.
        fields: The values of all keys that a train row or a test row has.
        target: The text that a model learns to write.
        answer: The part of the target that counts as the answer: a class, a word, a caption, tags or a box.
        videos: Scenes of the videos, in the order in which the prompt names them.
        audios: Scenes of the sounds, in the order in which the prompt names them.
        image: Scene and time of the picture, for the four datasets with pictures.
        unit: Index of the part of the sound that is played with the picture, if only one part is.
        files: Media files that the question needs.
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
    """Return eleven characters that look like the id of a video and say nothing about the clip."""
    key = f"{seed}/{dataset}/{split}/{index}/{part}".encode()
    number = int.from_bytes(hashlib.blake2s(key, digest_size=16).digest(), "big")
    letters = []
    for _ in range(11):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)


def clip_item(
    dataset: str,
    split: str,
    index: int,
    clip: str,
    scene: Scene,
    columns: dict[str, Any],
    *,
    target: str,
    answer: str,
    path: str = "",
    video: str = "mp4",
    audio: str = "mp3",
) -> Item:
    """Return an item about one video and its sound.

    Args:
        dataset: Key of the dataset.
        split: ``train`` or ``test``.
        index: Number of the question in the split.
        clip: Name of the clip.
        scene: The scene that the clip shows and plays.
        columns: The values of the row apart from the two paths.
        target: The text that a model learns to write.
        answer: The part of the target that counts as the answer.
        path: Path of both files without their extensions, if it is not the name of the clip.
        video: Extension of the video file.
        audio: Extension of the audio file.
    """
    names = {"video": f"{path or clip}.{video}", "audio": f"{path or clip}.{audio}"}
    fields = {"video_path": names["video"], "audio_path": names["audio"], **columns}
    files = (
        MediaFile(f"{dataset}/video/{names['video']}", "video", scene),
        MediaFile(f"{dataset}/audio/{names['audio']}", "audio", scene),
    )
    return Item(dataset, split, index, clip, fields, target, answer, (scene,), (scene,), files=files)
