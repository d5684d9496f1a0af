"""What a column layout is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crab_lightning.data.manifests.layout_columns import Column
from crab_lightning.data.manifests.layout_paths import stem_clip

Fields = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """What one split's file holds.

    Args:
        columns: Keys that have to be there, in the order they are checked.
        videos: Keys of the video files, in conversation order.
        images: Keys of the image files.
        audios: Keys of the audio files, in conversation order.
        target: Key of the supervised text.
        optional: Keys that some releases have; read where present.
        constants: Fields that are the same in every row.
    """

    columns: tuple[Column, ...]
    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    audios: tuple[str, ...] = ()
    target: str | None = None
    optional: tuple[Column, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One column layout.

    Args:
        name: Stable name, the released task id.
        train: Columns of ``train.json``.
        test: Columns of ``test.json``; ``None`` where none was released.
        media_folders: True: files lie under ``video/`` and ``audio/``. False: the value holds the sub-path.
        source: Namespace of clip names that are only file stems; layouts that share it share recordings.
        clip: Names the recording of one media value.
        query: Media key whose recording is ``Sample.clip``.
        key: Fields that, beside the clip's file, tell two rows apart; part of the sample id.
        reference: Reference string of the released test loader, built from the bridged fields.
        finish: Adds fields that follow from several columns. Gets the fields, the image value (empty for
            video tasks) and a function that places a relative path under the dataset folder.
        one_unit: True where ``frame`` also names the audio unit that is heard.
        class_field: Field whose values form the closed set ``DatasetSpec.classes``.
    """

    name: str
    train: Columns
    test: Columns | None
    media_folders: bool = True
    source: str = ""
    clip: Callable[[str], str] = stem_clip
    query: str = "video_path"
    key: tuple[str, ...] = ()
    reference: Callable[[Fields], str] = lambda _: ""
    finish: Callable[[Fields, str, Callable[[str], Any]], None] | None = None
    one_unit: bool = False
    class_field: str | None = None

    def columns(self, split: str) -> Columns | None:
        """Return the columns of a split's file; ``None`` when the layout has no such file."""
        return self.train if split == "train" else self.test
