"""Turns one row of a manifest into a sample, with the layout of the dataset.

Nothing is skipped or guessed: a value that cannot be read is an error that names the file, the row, the key
and what to do. Unknown keys are ignored, because the released files have more keys than are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from crab_lightning.data.manifests.column_types import ColumnError, RowError, kind_of, show
from crab_lightning.data.manifests.columns import ColumnMap, Fields
from crab_lightning.data.manifests.layout import Layout, Parts, stem
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.answers import class_index
from crab_lightning.tasks.base import Task, describe

_POLICY = "target_policy"
_FAULTS = (ValueError, TypeError, LookupError, AttributeError)
"""Errors that a class of another package may raise for a row that it did not expect."""


class RowReader:
    """Turns the rows of one file into samples."""

    def __init__(
        self,
        path: Path,
        base: Path,
        dataset: str,
        spec: DatasetSpec,
        split: Literal["train", "test"],
        layout: Layout,
        task: Task[Any] | None,
    ) -> None:
        self.task = task if layout.completes else None
        self.path = path
        self.dataset = dataset
        self.spec = spec
        self.split = split
        self.layout = layout
        self.base = str(base)
        self.folders = {
            kind: f"{self.base}/{layout.folders[kind]}/" if layout.folders.get(kind) else f"{self.base}/"
            for kind in ("video", "image", "audio")
        }
        self.prefix = f"{layout.source}/" if layout.source else ""
        self.path_of = cache(Path)  # many questions are about one clip, and making a path object takes time
        by_class = "" if isinstance(layout, ColumnMap) else spec.layout
        self.own_columns = not layout.completes and bool(spec.columns or by_class)
        self.place = (f"data.datasets.{dataset}", spec.task, by_class)
        self.units = spec.audio.units if spec.audio.kind == "one_unit" else None

    def error(self, row: int, err: ColumnError) -> RowError:
        """Return the error about one value, with the dataset, the file and the row in its message."""
        return RowError(
            row,
            f"data.datasets.{self.dataset}: {self.path}: row {row} (counted from 0): {err.what} {err.found}; "
            f"expected {err.wanted}. {err.remedy}",
        )

    def read(self, index: int, data: Any) -> Sample:
        """Return the sample of one row.

        Raises:
            RowError: If the row cannot be read.
        """
        try:
            if not isinstance(data, dict):
                raise ColumnError(
                    "an object", "the row", f"is {kind_of(data)}", "Keep one JSON array of objects."
                )
            parts = self._parts(data)
            _read_policy(data, parts)
            sample = self._sample(index, parts)
            if self.task is None:
                return sample
            for name in self.task.optional_keys:
                if name in parts.refused:
                    raise parts.refused[name]
            self.layout.check_keys(data, self.task.optional_keys)
            return self._completed(sample, data, self.task, parts.refused)
        except ColumnError as err:
            raise self.error(index, err) from None

    def _sample(self, index: int, parts: Parts) -> Sample:
        self._check_class(parts.fields)
        self._check_unit(parts.unit)
        if parts.masks is not None:
            parts.fields["mask_candidates"] = tuple(Path(f"{self.base}/{mask}") for mask in parts.masks)
            if self.spec.mask is not None:
                parts.fields["mask_colours"] = self.spec.mask
        if self.spec.clip_s is not None:
            parts.fields["clip_s"] = self.spec.clip_s
        names = self._recordings(parts) or [f"row{index}"]
        clips = tuple(dict.fromkeys(self.prefix + self.layout.recording(name) for name in names))
        if parts.clip is not None:
            clips = (self.prefix + parts.clip,)
        key = parts.id if parts.id is not None else "+".join(map(stem, names))
        marks = "".join(f"#{mark}" for mark in parts.marks)
        return Sample(
            id=f"{self.dataset}/{self.split}/{key}{marks}",
            dataset=self.dataset,
            task=self.spec.task,
            split=self.split,
            clip=clips[0],
            videos=tuple(self.path_of(self.folders["video"] + name) for name in parts.videos),
            images=tuple(self.path_of(self.folders["image"] + name) for name in parts.images),
            audios=tuple(self.path_of(self.folders["audio"] + name) for name in parts.audios),
            unit=parts.unit,
            target=parts.target,
            reference=parts.reference,
            fields=Fields(parts.fields, *self.place) if self.own_columns else parts.fields,
            row=index,
            clips=clips,
            conversation=parts.conversation,
        )

    def _parts(self, data: dict[str, Any]) -> Parts:
        try:
            return self.layout.read(data, self.split)
        except ColumnError:
            raise
        except _FAULTS as err:  # raised by a class of another package
            name = type(self.layout).__qualname__
            raise ColumnError(
                f"what {name} reads",
                found=f"makes {name} fail ({type(err).__name__}: {err})",
                remedy="Correct the row, or the class.",
            ) from err

    def errors(self, index: int, data: Any) -> list[RowError]:
        """Return one error for each value of a row that cannot be read by itself."""
        if not isinstance(data, dict):
            return []
        try:
            found = [self.error(index, err) for err in self.layout.errors(data, self.split)]
        except _FAULTS:  # reported when the row was read
            return []
        return list({str(err): err for err in found}.values())

    def _completed(
        self, sample: Sample, row: Mapping[str, Any], task: Task[Any], refused: Mapping[str, ColumnError]
    ) -> Sample:
        """Return a sample of own data with the fields and the target that its task makes."""
        keys = f"; the row has: {', '.join(map(str, row))}"
        try:
            given = {} if sample.target is None else {"target": sample.target}
            fields = task.plain({**sample.fields, **given})
            made = fields.pop("target", None)  # from the answer, the box or the points
            target = sample.target or made
            sample = replace(sample, fields=fields, target=target)
            sample = sample if target is not None else replace(sample, target=task.target(sample, "direct"))
            if sample.conversation is None:
                task.prompt(sample)  # this raises an error if the number of files does not fit the task
        except KeyError as err:
            if err.args[0] in refused:
                raise refused[err.args[0]] from None
            name = self.layout.keys.get(err.args[0], err.args[0])
            meaning = f" (columns.keys names it for {err})" if name != err.args[0] else ""
            raise ColumnError(
                f"it in every row of a dataset with the task {sample.task!r}",
                f"key {name!r}{meaning}",
                f"is empty ({show(row[name])})"
                if name in row
                else f"is missing{did_you_mean(name, row)}{keys}",
                "Add the key with a value, or rename the one that is meant.",
            ) from err
        except _FAULTS as err:
            told = str(err).removeprefix(f"{describe(sample)}: ")  # the reader adds the file and the row
            reason, begins, remedy = told.partition("Correct the row")
            remedy = f"{begins}{remedy}" or "Correct the row or remove it."
            wanted = f"what the task {sample.task!r} reads: {reason.rstrip(' .')}"
            raise ColumnError(wanted, remedy=remedy) from err
        if sample.conversation is None and not (sample.videos or sample.images or sample.audios):
            raise ColumnError(
                "a file under 'video', 'image' or 'audio'",
                found=f"names no clip{keys}",
                remedy="Add the key, or state its name in the file under `columns: {keys: ...}`.",
            )
        return sample

    @staticmethod
    def _recordings(parts: Parts) -> list[str]:
        """Return the files whose names give the recordings of a row, with that of ``parts.query`` first."""
        seen, files = [*parts.images, *parts.videos], [*parts.images, *parts.videos, *parts.audios]
        if not files:
            return []
        query = parts.query or files[0]
        if len(seen) == len(parts.audios) == 1:  # a clip and its sound track are one recording
            return [query]
        return list(dict.fromkeys([query, *files]))

    def _check_unit(self, unit: int | None) -> None:
        if unit is not None and self.units is not None and unit >= self.units:
            raise ColumnError(
                f"0 to {self.units - 1}, since it also names one of the {self.units} audio units; "
                "a later one would be silence",
                "the frame number",
                f"is {unit}",
            )

    def _check_class(self, fields: dict[str, Any]) -> None:
        """Refuse a class that is not in the configured class names, since no answer could be right."""
        name, classes = self.layout.class_field, self.spec.classes
        if name is not None and classes is not None and class_index(fields[name], classes) is None:
            raise ColumnError(
                f"one of data.datasets.{self.dataset}.classes ({', '.join(classes)})",
                f"the {name.replace('_', ' ')}",
                f"is {fields[name]!r}{did_you_mean(fields[name], classes)}",
                "Correct the row, or leave `classes` out to take them from the manifests.",
            )


def _read_policy(data: dict[str, Any], parts: Parts) -> None:
    """Store the key ``target_policy`` of a row, which ``build reason`` writes, among the fields."""
    policy = data.get(_POLICY)
    if policy is None:
        return
    if policy not in ("reasoning", "direct"):
        raise ColumnError(
            "'reasoning' or 'direct'",
            f"the key {_POLICY!r}",
            f"is {policy!r}",
            "Correct it or remove the key.",
        )
    parts.fields[_POLICY] = policy
