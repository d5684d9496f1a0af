"""Layouts, which read the rows of a manifest, and how a layout is found by its name.

A layout is a column map in YAML (19 of them are shipped, one for each released file), a class of this package
(``messages`` and ``plain``), or a class of another package, given by its import path.
"""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from crab_lightning.data.manifests.column_types import ColumnError
from crab_lightning.files import parsed_yaml
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import Conversation, DatasetSpec

if TYPE_CHECKING:
    from crab_lightning.data.manifests.columns import ColumnMap

CARDS = Path(__file__).with_name("cards")


@dataclass
class Parts:
    """The content of one row of a manifest.

    Args:
        videos: Paths of the video files relative to their folder, in the order of the conversation.
        images: Paths of the image files.
        audios: Paths of the sound files, in the order of the conversation.
        fields: The values that the task reads, by name.
        target: Target text; ``None`` if the row has none.
        reference: Reference string of the row, for people and for answer files without ids.
        masks: Possible paths of the true mask, of which the first that exists is used. ``None`` without
            masks.
        query: The media path whose recording is ``Sample.clip``. By default, the first path.
        clip: Name of the recording, if the row has it.
        id: Name of the row, if the row has it.
        marks: Values that distinguish two rows with the same files.
        unit: Index of the audio unit that is heard.
        conversation: The question, if the row contains it. By default, the task makes the question.
        refused: The errors of values that a task could not read, by the name of the field. An error is raised
            if the task reads the field.
    """

    videos: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    audios: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    reference: str = ""
    masks: list[str] | None = None
    query: str | None = None
    clip: str | None = None
    id: str | None = None
    marks: tuple[Any, ...] = ()
    unit: int | None = None
    conversation: Conversation | None = None
    refused: dict[str, ColumnError] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """The numbers of files and the names of the text fields in one question of a layout."""

    videos: int
    images: int
    audios: int
    texts: frozenset[str]


class Layout(ABC):
    """Reads the rows of a manifest.

    For rows that a column map cannot describe, write a subclass in your own package, and give its import path
    as ``layout`` of the dataset. The ``columns`` of the dataset are the keyword arguments of the class.
    """

    name: str = ""
    source: str = ""
    """Namespace of recording names. Layouts with the same namespace use the same recordings."""
    class_field: str | None = None
    """Field whose values are the class names, ``DatasetSpec.classes``."""
    completes: bool = False
    """Whether the task makes its fields and its target from the content of a row (:meth:`Task.plain`)."""
    folders: Mapping[str, str] = {}
    """Folder of each kind of file (``video``, ``image``, ``audio``) below the dataset's folder."""
    keys: Mapping[str, str] = {}
    """Names of keys in the file, by the names that tasks read, where they differ."""

    @abstractmethod
    def read(self, row: Mapping[str, Any], split: str) -> Parts:
        """Return the parts of a row.

        Args:
            row: The row of the manifest.
            split: ``train`` or ``test``.

        Raises:
            ColumnError: If a value cannot be used.
        """

    def check_keys(self, row: Mapping[str, Any], optional: Sequence[str]) -> None:  # noqa: B027
        """Check the names of a row's keys, if rows may lack some that the task reads.

        Args:
            row: The row of the manifest.
            optional: The keys that the task reads if a row has them (``Task.optional_keys``).

        Raises:
            ColumnError: If the row has a key that is probably a misspelt name of one of them.
        """

    def errors(self, row: Mapping[str, Any], split: str) -> Iterator[ColumnError]:
        """Yield the errors of a row. Without an own method in a subclass, this is only the first error."""
        try:
            self.read(row, split)
        except ColumnError as err:
            yield err

    def recording(self, path: str) -> str:
        """Return the name of the recording that a media file was cut from."""
        return stem(path)

    def needs(self) -> Needs | None:
        """Return the needs of a question, or ``None`` if the rows differ."""
        return None


def stem(path: str) -> str:
    """Return a path without its extension, which is the same for the video and the sound file of a clip."""
    # Texts are faster than paths, and this runs for each of 222,000 rows.
    head, _, extension = path.rpartition(".")
    return head if head and not head.endswith("/") and "/" not in extension else path


def clip_folder(image: str) -> str:
    """Return the folder of the clip of a frame, which contains ``frames/`` and the audio file."""
    path = PurePosixPath(image)
    parent = path.parent
    return str(parent.parent) if parent.name == "frames" else str(parent)


class _Released(Mapping[str, Layout]):
    """The shipped column maps by name. A card is read when it is needed."""

    def __getitem__(self, name: str) -> Layout:
        if name not in _card_names():
            raise KeyError(name)
        return layout_of(DatasetSpec("", name), name)

    def __iter__(self) -> Iterator[str]:
        return iter(_card_names())

    def __len__(self) -> int:
        return len(_card_names())


LAYOUTS: Mapping[str, Layout] = _Released()
"""The 19 released layouts; their names are the released task ids and never change."""


@lru_cache(maxsize=1)
def _card_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in CARDS.glob("*.yaml")))


def display_name(dataset: str, layout: str) -> str:
    """Return the name of a dataset for tables, pages and pictures.

    For a released dataset under its own key, this is the name of the benchmark in papers. Any other dataset
    has its key as the name, because several datasets may have the same layout.

    Args:
        dataset: Key of the dataset.
        layout: Name of its layout.
    """
    return str(card(layout)["display"]) if dataset == layout and layout in LAYOUTS else dataset


@lru_cache(maxsize=64)
def card(name: str) -> dict[str, Any]:
    """Return the content of a card, merged with the card that it names under ``like``.

    Args:
        name: Name of a shipped card, or the path of a YAML file.

    Raises:
        ValueError: If there is no such card, or it is not a mapping in YAML.
    """
    path = CARDS / f"{name}.yaml" if name in _card_names() else Path(name)
    try:
        content = parsed_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{_unknown(name)} There is no file {path}.") from None
    except yaml.YAMLError as err:
        raise ValueError(f"{path} cannot be read as YAML: {err}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains no mapping of columns")
    return laid_over(card(content.pop("like")), content) if "like" in content else content


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` merged with ``above``, whose values take precedence.

    ``fields``, ``train`` and ``test`` are merged key by key. Any other value is replaced, and ``None``
    removes a key. The description of one field is replaced as a whole.
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if key == "fields" and isinstance(old, dict) and isinstance(value, dict):
            result[key] = {name: spec for name, spec in (old | value).items() if spec is not None}
        elif isinstance(old, dict) and isinstance(value, dict) and key in ("train", "test"):
            result[key] = laid_over(old, value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def layout_of(spec: DatasetSpec, dataset: str) -> Layout:
    """Return the layout of a dataset.

    Args:
        spec: Entry of the dataset in the config.
        dataset: Key of the dataset, for messages.

    Raises:
        ValueError: If there is no such layout, or ``columns`` is wrong.
    """
    return _made(spec.layout, dataset if spec.columns else spec.layout, pickle.dumps(spec.columns or {}))


@lru_cache(maxsize=256)
def _made(layout: str, name: str, columns: bytes) -> Layout:
    from crab_lightning.data.manifests.columns import ColumnMap

    told: dict[str, Any] = pickle.loads(columns)  # bytes of this program: mappings are no keys of a cache
    if layout in _card_names() or layout.endswith((".yaml", ".yml")):
        place = "columns" if told else f"layout {layout}"
        return _asking(ColumnMap(laid_over(card(layout), told), name, place), place)
    if not layout:
        return _asking(ColumnMap(told, name), "columns")
    if layout not in _CLASSES and "." not in layout:
        raise ValueError(_unknown(layout))
    found = _imported(_CLASSES.get(layout, layout))
    try:
        made = found(**told)
    except TypeError as err:
        takes = [name for name in inspect.signature(found).parameters if name != "self"]
        unknown = [name for name in told if name not in takes]
        raise ValueError(
            f"columns has the key {unknown[0]!r}{did_you_mean(unknown[0], takes)}, which the layout"
            f" {layout!r} does not have; it has: {', '.join(takes) or 'none'}. Without `layout`, columns may"
            " have media, fields, target and others"
            if unknown
            else f"columns do not fit layout {layout!r}: {err}"
        ) from err
    made.name = made.name or layout
    return made


def _asking(columns: ColumnMap, place: str) -> ColumnMap:
    """Return a column map if it names a file to ask about."""
    needs = columns.needs()
    if not (needs.videos or needs.images or needs.audios):
        raise ValueError(
            f"{place} names no file. Give the key that contains the path: media: {{videos: KEY}}, or images, "
            "or audios"
        )
    return columns


_CLASSES = {
    "messages": "crab_lightning.data.manifests.own.Messages",
    "plain": "crab_lightning.data.manifests.own.Plain",
}
"""Layouts that are classes of this package, by their short names."""


def _unknown(name: str) -> str:
    known = [*_CLASSES, *_card_names()]
    return (
        f"layout is {name!r}{did_you_mean(name, known)}; known layouts: {', '.join(known)}. It may also be a "
        "YAML file with a column map, or the import path of a class derived from crab_lightning.data.Layout."
    )


def _imported(path: str) -> type[Layout]:
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as err:
        near = did_you_mean(attribute, getattr(sys.modules.get(module), "__all__", ()))
        raise ValueError(f"layout is {path!r}{near}, which cannot be imported: {err}") from err
    if not (isinstance(found, type) and issubclass(found, Layout)):
        raise ValueError(f"layout is {path!r}, which is not a class derived from crab_lightning.data.Layout")
    return found


def template(text: str) -> list[str | tuple[str, int | None]]:
    """Divide ``"a {name} b {box[0]}"`` into texts and placeholders.

    >>> template("is {x}, {y[1]}")
    ['is ', ('x', None), ', ', ('y', 1)]
    """
    parts: list[str | tuple[str, int | None]] = []
    end = 0
    for match in re.finditer(r"\{(\w+)(?:\[(\d+)\])?\}", text):
        parts += [text[end : match.start()], (match[1], None if match[2] is None else int(match[2]))]
        end = match.end()
    return [part for part in (*parts, text[end:]) if part != ""]


def filled(parts: list[str | tuple[str, int | None]], values: Mapping[str, Any]) -> str:
    """Return the text of a template with its placeholders replaced by values."""
    return "".join(
        part
        if isinstance(part, str)
        else str(values[part[0]] if part[1] is None else values[part[0]][part[1]])
        for part in parts
    )
