"""Column maps: they say which key of a manifest is which field, which file and which target.

Keys of a column map:

================  ===========================================================================================
key               meaning
================  ===========================================================================================
``media``         keys of the files by kind: ``{videos: video_path, audios: [audio1, audio2]}``
``folders``       sub-folder of each kind, ``{video: video, audio: audio}``; by default there are none
``fields``        for each field of the task: the key in the file, or a mapping (see below)
``target``        key of the target text
``required``      keys that must exist and are not read
``reference``     the reference string, with fields in braces
``classes``       field whose values are the class names
``id``            fields that distinguish two rows with the same files
``unit``          field with the index of the audio unit that is heard with a frame
``recordings``    ``source``: namespace of recording names; ``name``: ``stem`` of the file (the default),
                  ``folder`` of the clip's frames, or a regular expression whose group is the name; ``query``:
                  key of the file whose recording comes first; ``key``: key with the name of the recording
``masks``         places of the true mask: ``path`` with fields, ``{image}`` (path of the image without
                  extension) and ``{clip}`` (folder of the image) in braces, then ``replace``; or ``key``
``train test``    a map of the same form with the differences for one split
``like``          name or path of a card to which this map adds its keys
================  ===========================================================================================

A field is described by ``key``, ``keys`` (the values of all keys as a tuple), ``any_of`` (the first key that
the row has) or ``value`` (the same value in every row). It may also have ``type`` (see ``TYPES``; fields have
default types), ``item`` (use only this element of the value) and ``optional`` (the field is left out if the
row has no such key). A key inside another value is named with dots, and an element of a list by its number:
``segment.0.start``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from crab_lightning.data.manifests.column_checks import (
    key_names,
    known_keys,
    known_texts,
    one_name,
    places,
    refer,
    refuse_misspelt,
)
from crab_lightning.data.manifests.column_types import (
    ABSENT,
    FIELD_TYPES,
    TYPES,
    ColumnError,
    ManifestError,
    anything,
    read_as,
    relative_path,
    show,
    target_text,
    value_at,
    word,
)
from crab_lightning.data.manifests.layout import (
    Layout,
    Needs,
    Parts,
    clip_folder,
    filled,
    laid_over,
    stem,
    template,
)
from crab_lightning.spelling import did_you_mean

_FACTS = {"display", "answers", "test_samples"}
"""Keys of a card that do not describe columns."""
_KEYS = {
    "media", "folders", "fields", "target", "required", "reference", "classes", "id", "unit", "recordings",
    "masks",
}  # fmt: skip
_FIELD_KEYS = {"key", "keys", "any_of", "value", "type", "item", "optional"}
_KINDS = ("videos", "images", "audios")
_TEXTS = frozenset({"question", "options", "expression"})


class ColumnMap(Layout):
    """A layout that reads rows with a column map.

    Args:
        content: The map.
        name: Name of the layout in messages.
        place: Key of the map in the config, for messages.

    Raises:
        ValueError: If the map has an unknown key, or a value of a wrong form.
    """

    def __init__(self, content: Mapping[str, Any], name: str, place: str = "columns") -> None:
        self.name = name
        known_keys(content, _KEYS | _FACTS | {"train", "test"}, place)
        for split in ("train", "test"):
            known_keys(content.get(split) or {}, _KEYS | _FACTS, f"{place}.{split}")
        shared = {key: value for key, value in content.items() if key not in ("train", "test")}
        self._sides = {
            split: _Side(
                laid_over(shared, content.get(split) or {}),
                f"{place}.{split}" if content.get(split) else place,
                f"it in every row of a {name} {split} file",
            )
            for split in ("train", "test")
        }
        recordings = content.get("recordings") or {}
        self.source = str(recordings.get("source", ""))
        self.class_field = content.get("classes")
        self.folders = content.get("folders") or {}
        known_keys(self.folders, {"video", "image", "audio"}, f"{place}.folders")
        known_texts(self.folders, f"{place}.folders")
        self._recording = _recording(str(recordings.get("name", "stem")))

    def read(self, row: Mapping[str, Any], split: str) -> Parts:
        """Return the parts of a row.

        Raises:
            ColumnError: If a value cannot be used.
        """
        return self._sides[split].read(row)

    def errors(self, row: Mapping[str, Any], split: str) -> Iterator[ColumnError]:
        """Yield one error for each value that cannot be used."""
        return self._sides[split].errors(row)

    def recording(self, path: str) -> str:
        """Return the name of the recording that a media file was cut from."""
        return self._recording(path)

    def needs(self) -> Needs:
        """Return the kinds of media that a question of the training file has."""
        return self._sides["train"].needs()


@dataclass(frozen=True)
class _Column:
    """The rule by which one field is read.

    Args:
        field: Name of the field; empty if only the existence of the key is checked.
        keys: Keys in the file.
        read: Function that makes the value of the field from the value in the file.
        mode: ``one`` key, ``all`` keys, or the ``first`` key that the row has.
        item: Index of the element of the value that is used; ``None`` for the whole value.
        optional: Whether the key may be missing.
    """

    field: str
    keys: tuple[str, ...]
    read: Callable[[Any], Any]
    mode: str = "one"
    item: int | None = None
    optional: bool = False

    def value(self, row: Mapping[str, Any], rows_of: str) -> Any:
        """Return the value of the field, or ``None`` if it is optional and missing."""
        if self.optional and all(value_at(row, key) in (None, ABSENT) for key in self.keys):
            return None
        if self.mode == "one":
            value = _cell(row, self.keys[0], self.read, rows_of)
        elif self.mode == "first":
            key = next((key for key in self.keys if value_at(row, key) is not ABSENT), self.keys[-1])
            value = _cell(row, key, self.read, rows_of)
        else:
            values = [_cell(row, key, self.read, rows_of) for key in self.keys]
            # Tuples are joined, for example two corners to a box.
            value = tuple(x for v in values for x in (v if isinstance(v, tuple) else (v,)))
        if self.item is None:
            return value
        try:
            return value[self.item]
        except (LookupError, TypeError):
            raise ColumnError(
                f"an element number {self.item} (counted from 0)",
                f"key {self.keys[0]!r}",
                f"is {show(value)}",
            ) from None


class _Side:
    """The columns of the file of one split."""

    def __init__(self, content: Mapping[str, Any], where: str, rows_of: str) -> None:
        self.rows_of = rows_of
        self.constants: dict[str, Any] = {}
        self.columns: list[_Column] = [
            _Column("", (key,), anything) for key in key_names(content.get("required"), where)
        ]
        fields: Any = content.get("fields") or {}
        if not isinstance(fields, Mapping):
            raise ValueError(
                f"{where}.fields is {show(fields)}; it must be a mapping such as {{event: label}}"
            )
        for name, said in fields.items():
            refuse_misspelt(name, said, fields, where)
            self._add_field(name, said, where)
        media = content.get("media") or {}
        known_keys(media, set(_KINDS), f"{where}.media")
        self.media = [
            (kind, key) for kind in _KINDS for key in key_names(media.get(kind), f"{where}.media.{kind}")
        ]
        self.target = one_name(content.get("target"), f"{where}.target")
        self.reference = template(str(content.get("reference") or ""))
        self.id = key_names(content.get("id"), f"{where}.id")
        self.unit = one_name(content.get("unit"), f"{where}.unit")
        recordings = content.get("recordings") or {}
        known_keys(recordings, {"source", "name", "query", "key"}, f"{where}.recordings")
        images = [key for kind, key in self.media if kind == "images"]
        query, clip = (one_name(recordings.get(key), f"{where}.recordings.{key}") for key in ("query", "key"))
        self.query, self.clip_key = images[0] if images else query, clip
        masks = content.get("masks")
        self.masks = masks if masks is None or isinstance(masks, list) else [masks]
        given = [*fields]
        refer([self.unit], given, f"{where}.unit")
        refer([one_name(content.get("classes"), f"{where}.classes")], given, f"{where}.classes")
        refer(places(self.reference), given, f"{where}.reference")
        for mask in self.masks or ():
            known_keys(mask, {"path", "replace", "key"}, f"{where}.masks")
            path = one_name(mask.get("path"), f"{where}.masks.path")
            if (path is None) == (one_name(mask.get("key"), f"{where}.masks.key") is None):
                raise ValueError(f"{where}.masks has {show(dict(mask))}; give each mask a path or a key")
            refer(places(template(path or "")), [*given, "image", "clip"], f"{where}.masks.path")
            known_texts(mask.get("replace") or {}, f"{where}.masks.replace")

    def _add_field(self, name: str, said: Any, where: str) -> None:
        place = f"{where}.fields.{name}"
        said = said if isinstance(said, Mapping) else {"key": said}
        known_keys(said, _FIELD_KEYS, place)
        if "value" in said:
            self.constants[name] = said["value"]
            return
        kind = str(said.get("type") or FIELD_TYPES.get(name, "any"))
        if kind not in TYPES:
            raise ValueError(
                f"{place}.type is {kind!r}{did_you_mean(kind, TYPES)}; there are: {', '.join(sorted(TYPES))}"
            )
        item = said.get("item")
        if item is not None and type(item) is not int:
            raise ValueError(
                f"{place}.item is {show(item)}; it must be the number of an element, counted from 0"
            )
        optional = said.get("optional", False)
        if not isinstance(optional, bool):
            raise ValueError(f"{place}.optional is {show(optional)}; it must be true or false")
        modes = [(mode, key) for mode, key in _MODES.items() if said.get(key) is not None]
        if len(modes) != 1:
            raise ValueError(f"{place} is {show(dict(said))}; give it one of key, keys, any_of and value")
        mode, key = modes[0]
        keys = key_names(said[key], place)
        self.columns.append(_Column(name, keys, TYPES[kind], mode, item, optional))

    def needs(self) -> Needs:
        kinds = [kind for kind, _ in self.media]
        texts = _TEXTS & {column.field for column in self.columns}
        return Needs(kinds.count("videos"), kinds.count("images"), kinds.count("audios"), texts)

    def read(self, row: Mapping[str, Any]) -> Parts:
        rows_of = self.rows_of
        parts = Parts(fields=dict(self.constants))
        for column in self.columns:
            value = column.value(row, rows_of)
            if column.field and not (value is None and column.optional):
                parts.fields[column.field] = value
        for kind, key in self.media:
            path = _cell(row, key, relative_path, rows_of)
            getattr(parts, kind).append(path)
            if key == self.query:
                parts.query = path
        if self.target is not None:
            parts.target = _cell(row, self.target, target_text, rows_of)
        if self.reference:
            parts.reference = filled(self.reference, parts.fields)
        if self.clip_key is not None:
            parts.clip = _cell(row, self.clip_key, word, rows_of)
        if self.unit is not None:
            parts.unit = int(parts.fields[self.unit])
        if self.masks is not None:
            parts.masks = list(self._masks(row, parts))
        parts.marks = tuple(parts.fields[name] for name in self.id if name in parts.fields)
        return parts

    def errors(self, row: Mapping[str, Any]) -> Iterator[ColumnError]:
        checks: list[Callable[[], Any]] = [partial(one.value, row, self.rows_of) for one in self.columns]
        cells = [(key, relative_path) for _, key in self.media]
        cells += [] if self.target is None else [(self.target, target_text)]
        for check in checks + [partial(_cell, row, *cell, self.rows_of) for cell in cells]:
            try:
                check()
            except ColumnError as err:
                yield err

    def _masks(self, row: Mapping[str, Any], parts: Parts) -> Iterator[str]:
        image = parts.images[0] if parts.images else ""
        values = {**parts.fields, "image": stem(image), "clip": clip_folder(image)}
        for mask in self.masks or ():
            if "key" in mask:
                yield _cell(row, mask["key"], relative_path, self.rows_of)
                continue
            path = filled(template(mask["path"]), values)
            swaps: Mapping[str, str] = mask.get("replace") or {}
            # Otherwise an image outside the expected folder would be used as its own mask.
            if all(old in path for old in swaps):
                for old, new in swaps.items():
                    path = path.replace(old, new)
                yield path


class Fields(dict[str, Any]):
    """The fields of a sample whose columns the user has described. A missing field raises a clear error.

    Args:
        values: The fields.
        where: Key of the dataset's entry in the config.
        task: Key of the task that reads the fields.
        layout: Import path of the class that read the fields; empty if ``columns`` describes them.

    Raises:
        ManifestError: If a missing field is read.
    """

    __slots__ = ("layout", "task", "where")

    def __init__(self, values: Mapping[str, Any], where: str, task: str, layout: str = "") -> None:
        super().__init__(values)
        self.where, self.task, self.layout = where, task, layout

    def __reduce__(self) -> tuple[type[Fields], tuple[dict[str, Any], str, str, str]]:
        return type(self), (dict(self), self.where, self.task, self.layout)

    def __missing__(self, field: str) -> Any:
        source, remedy = "columns.fields", "State there which column contains"
        if self.layout:
            source, remedy = f"the layout {self.layout}", "Let its class return"
        raise ManifestError(
            f"{self.where}: the task {self.task!r} reads the field {field!r}, which {source} does not "
            f"give{did_you_mean(field, self)}; it gives: {', '.join(self) or 'none'}. {remedy} {field}"
        )


_MODES = {"one": "key", "all": "keys", "first": "any_of"}


def _cell(row: Mapping[str, Any], key: str, read: Callable[[Any], Any], rows_of: str) -> Any:
    """Return the result of a reader for one value of a row.

    Raises:
        ColumnError: If the key is missing, or its value cannot be read. The error names the key.
    """
    value = value_at(row, key)
    if value is ABSENT:
        outer = key.rpartition(".")[0]
        while outer and value_at(row, outer) is ABSENT:
            outer = outer.rpartition(".")[0]
        near = f" ({outer!r} is {show(value_at(row, outer))})" if outer else did_you_mean(key, row)
        raise ColumnError(
            rows_of,
            f"key {key!r}",
            f"is missing{near}; the row has: {', '.join(map(str, row)) or 'nothing'}",
            "Add the key, or correct `columns` or `layout` of the dataset.",
        )
    return read_as(read, value, key)


def _recording(rule: str) -> Callable[[str], str]:
    """Return a function that makes the name of a recording from the path of one of its files."""
    if rule == "stem":
        return stem
    if rule == "folder":
        return clip_folder
    try:
        pattern = re.compile(rule)
    except re.error as err:
        raise ValueError(f"recordings.name is {rule!r}, which is not a regular expression: {err}") from None
    if pattern.groups != 1:
        raise ValueError(
            f"recordings.name is {rule!r}; it must be 'stem', 'folder', or a regular expression with one "
            "group"
        )

    def named(path: str) -> str:
        found = pattern.search(stem(path))
        return found[1] if found else stem(path)

    return named
