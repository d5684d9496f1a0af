"""Event parsing: the events that are seen and those that are heard, with their times (LLP, ``avvp``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import MetricCollection

from crab_lightning.metrics import EventParsingF
from crab_lightning.metrics.event_parsing import clip_f_scores, named_f_scores
from crab_lightning.spelling import did_you_mean
from crab_lightning.structures import ClipWindow, DatasetSpec, Sample
from crab_lightning.tasks.answers import class_index, distinct_names, plain
from crab_lightning.tasks.base import classes_of, describe
from crab_lightning.tasks.event_text import (
    ANY_LENGTH_S,
    EventSpan,
    ModalEvents,
    behind,
    cut_off_remarks,
    json_events,
    loosened_times,
    merged_runs,
    modal_blocks,
    rasterise,
    read_modal_events,
    written_s,
)
from crab_lightning.tasks.event_windows import EventTask, in_whole_clip, in_window, windowed

NOTHING = "<visual></visual><audio></audio>"
"""The text that says that no event is seen or heard in a clip."""


class EventParsing(EventTask[ModalEvents]):
    """Names the events that are seen and those that are heard, with spans in whole seconds.

    The task reads the field ``annotation``, the events in tags; if it has no tags, the manifest's target text
    is read. An event with a name outside ``spec.classes`` is dropped from an answer, because the metric has
    no row for it.

    Scoring: the ten F-scores of Tian et al., ECCV 2020 (arXiv:2007.10558). An unreadable answer counts as no
    event.
    """

    instruction = (
        "Please determine the events that occur based on the visual and audio information in the video, as "
        "well as the start and end times of these events."
    )

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with its events in tags; an event without a modality is both seen and heard."""
        if "events" not in row and "text" in row:
            return {**row, "annotation": row["text"]}
        tags = ""
        for event in row["events"]:
            name = event["event"]
            if [e.name for _, e in read_modal_events(f"<visual>{name},(0 1)</visual>", 1)] != [name]:
                raise ValueError(
                    f"the event name {name!r} cannot be written as <visual>NAME,(0 1)</visual>, because a"
                    " name ends at its first comma. Write the name without a comma"
                )
            body = f"{name},({written_s(event['start_s'])} {written_s(event['end_s'])})"
            for side in [event["modality"]] if "modality" in event else ["visual", "audio"]:
                tags += f"<{side}>{body}</{side}>"
        return {**row, "annotation": tags}

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        name = classes_of(spec)[0]
        return (
            f"Choose the events from: {', '.join(classes_of(spec))}. For each event that is seen, write its "
            f"name and its start and end in whole seconds from 0 to {self.clip_s} inside tags: "
            f"<visual>{name},(2 5)</visual>. For each event that is heard, write: <audio>{name},(2 5)</audio>"
        )

    def direct(self, sample: Sample) -> str:
        """Return only the tags, with the spelling of the target text if there is one.

        Raises:
            ValueError: If neither the target text nor the annotation contains tags.
        """
        for text in (sample.target or "", str(sample.fields["annotation"])):
            if blocks := modal_blocks(text):
                return "".join(f"<{tag}>{body}</{tag}>" for _, tag, body in blocks)
        raise ValueError(
            f"{describe(sample)}: neither the target nor the annotation {sample.fields['annotation']!r} "
            "contains <visual> or <audio> tags. Correct the row or remove it"
        )

    def truth(self, sample: Sample, spec: DatasetSpec) -> ModalEvents:
        """Return the annotated events, with touching events of a class joined; none for an empty annotation.

        Raises:
            ValueError: If no tags can be read, or an event is not in ``spec.classes``.
        """
        classes = classes_of(spec)
        found = self._read(sample, self._scored_s(sample))
        if unknown := [event.name for _, event in found if class_index(event.name, classes) is None]:
            raise ValueError(
                f"{describe(sample)}: event {unknown[0]!r} is not one of the dataset's classes"
                f"{did_you_mean(unknown[0], classes)}: {', '.join(classes)}. "
                "Correct the row, or leave `classes` out to take them from the manifests."
            )
        return self._merge(found, classes, self._scored_s(sample))

    def _scored_s(self, sample: Sample) -> int:
        """Return the number of whole seconds that are scored."""
        return self.length_s(sample) if sample.whole_s is None else math.ceil(sample.whole_s)

    def _read(self, sample: Sample, clip_s: int) -> list[tuple[str, EventSpan]]:
        annotation = str(sample.fields["annotation"])
        for text in (annotation, sample.target or ""):
            if modal_blocks(text):
                return read_modal_events(text, clip_s)
        if annotation.strip():
            raise ValueError(
                f"{describe(sample)}: no events can be read from {annotation!r}; it must have tags such as "
                "<visual>Dog,(0 4)</visual><audio>Dog,(1 3)</audio>. Correct the row or remove it."
            )
        return []

    def _merge(
        self, found: Sequence[tuple[str, EventSpan]], classes: Sequence[str], clip_s: int
    ) -> ModalEvents:
        visual = merged_runs((e for modality, e in found if modality == "visual"), classes, clip_s)
        audio = merged_runs((e for modality, e in found if modality == "audio"), classes, clip_s)
        return ModalEvents(visual, audio)

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> ModalEvents | None:
        """Read the seen and heard events; ``None`` if no event of a known class is inside the clip.

        ``<visual></visual><audio></audio>`` means that there is no event.
        """
        text, clip_s = plain(text), self.length_s(sample)
        found = read_modal_events(loosened_times(text) if self.lenient else text, clip_s)
        if self.lenient and not found:
            found = [(modality, event) for modality, event in json_events(text, clip_s) if modality]
        events = self._merge(found, classes_of(spec), clip_s)
        said = events.visual or events.audio or NOTHING in text
        return events if said else None

    def by_window(self, sample: Sample, spec: DatasetSpec) -> bool:
        """Return True, because an annotation has the times of a long clip in seconds."""
        return True

    def stitch(
        self, parts: Sequence[tuple[ClipWindow, ModalEvents | None]], sample: Sample, spec: DatasetSpec
    ) -> ModalEvents | None:
        """Return the events of all windows in whole seconds of the clip; touching events are joined."""
        found = [
            (side, in_whole_clip(event, window, self.length_s(sample)))
            for window, answer in parts
            if answer is not None
            for side, events in (("visual", answer.visual), ("audio", answer.audio))
            for event in events
        ]
        if all(answer is None for _, answer in parts):
            return None
        return self._merge(found, classes_of(spec), self._scored_s(sample))

    def windowed(self, sample: Sample, window: ClipWindow, spec: DatasetSpec) -> Sample:
        """Return the sample of a window, with the times of its events; empty tags mean no event."""
        found, clip_s = self._read(sample, ANY_LENGTH_S), self.length_s(sample)
        tags = ""
        for side, event in found:
            if (inside := in_window(event, window, clip_s)) is not None:
                tags += f"<{side}>{inside.name},({inside.start_s:g} {inside.end_s:g})</{side}>"
        tags = tags or NOTHING
        fields = {**sample.fields, "annotation": tags}
        return windowed(sample, window, [event for _, event in found], fields, tags, clip_s)

    def beyond(self, text: str, sample: Sample) -> list[str]:
        """Return the events of an answer that end after the clip."""
        return behind((e for _, e in read_modal_events(plain(text), ANY_LENGTH_S)), self.length_s(sample))

    def remarks(self, sample: Sample) -> list[str]:
        """Return remarks on annotated events that are not inside the clip or have no length."""
        return cut_off_remarks(
            sample, [e for _, e in self._read(sample, ANY_LENGTH_S)], self.length_s(sample)
        )

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the ten F-scores and the mean of five at each level."""
        return MetricCollection({"f_scores": EventParsingF()})

    def update(
        self, metrics: MetricCollection, answer: ModalEvents | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one clip."""
        metrics.update(*self._matrices(answer, sample, spec))

    def _matrices(
        self, answer: ModalEvents | None, sample: Sample, spec: DatasetSpec
    ) -> tuple[torch.Tensor, ...]:
        """Return predicted audio, predicted visual, true audio and true visual, ``(1, classes, s)`` each."""
        pred, true, classes = answer or ModalEvents(), self.truth(sample, spec), classes_of(spec)
        sides = (pred.audio, pred.visual, true.audio, true.visual)
        length_s = self._scored_s(sample)
        return tuple(torch.tensor([rasterise(side, classes, length_s)]) for side in sides)

    def score(self, answer: ModalEvents | None, sample: Sample, spec: DatasetSpec) -> float:
        """Return the mean of the five segment-level scores of this clip."""
        units = clip_f_scores(*self._matrices(answer, sample, spec))[..., 0]
        return float(named_f_scores(units, 1)["segment_mean5"])

    def headline(self, spec: DatasetSpec) -> str:
        """Return ``segment_mean5``, the score that papers report."""
        return "segment_mean5"

    def class_names(self, samples: Sequence[Sample]) -> list[str]:
        """Return the event names that occur in these samples."""
        found = (pair for sample in samples for pair in self._read(sample, self._scored_s(sample)))
        return distinct_names([event.name for _, event in found])

    def jsonable(self, answer: ModalEvents) -> Any:
        """Return lists of ``[name, start_s, end_s]`` by modality."""
        return {
            side: [[e.name, e.start_s, e.end_s] for e in events]
            for side, events in (("visual", answer.visual), ("audio", answer.audio))
        }
