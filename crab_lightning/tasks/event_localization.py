"""Event localization: the events of a clip and their times (``ave``, ``unav``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torchmetrics import Metric, MetricCollection

from crab_lightning.metrics import EventMeanAP, SegmentAccuracy
from crab_lightning.spelling import counted
from crab_lightning.structures import ClipWindow, DatasetSpec, Sample
from crab_lightning.tasks.answers import class_index, distinct_names, plain, tag_bodies
from crab_lightning.tasks.base import LENIENT, chosen, classes_of, describe
from crab_lightning.tasks.event_text import (
    ANY_LENGTH_S,
    EventSpan,
    behind,
    cut_off_remarks,
    json_events,
    loosened_times,
    read_events,
    says_nothing,
    segment_classes,
    timeless,
    whole_span,
    written_s,
)
from crab_lightning.tasks.event_windows import EventTask, in_whole_clip, in_window, joined, windowed

CONSTANT_SCORE = (
    "mean average precision with the confidence 1.0 for every event, because the model gives none; so "
    "events are ranked by their order in the answer. Do not compare it with models that give confidences"
)
_METRICS = ("segment_accuracy", "map")

NOTHING = "<event></event>"
"""The text that says that there is no event in a clip."""


class EventLocalization(EventTask[tuple[EventSpan, ...]]):
    """Names events and their half-open spans ``[start_s, end_s)`` in whole seconds.

    The task reads the fields ``event``, ``start_s`` and ``end_s`` (one event), or ``annotation`` (any number
    of events, in tags). The ``metrics`` of a dataset's entry are ``segment_accuracy`` (AVE; the default) or
    ``map`` (UnAV-100). An unreadable answer counts as no event. ``map`` takes the true times from the fields
    ``events_s`` and ``duration_s`` if a row has them, because the annotation of UnAV-100 is rounded to tenths
    of the clip.

    Scoring: segment accuracy of Tian et al., ECCV 2018 (arXiv:1803.08842); mean average precision of UnAV-100
    (arXiv:2303.12930), in which every predicted event has the score 1, because a language model gives none.
    """

    instruction = "Please describe the events and time range that occurred in the video."

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with its events in tags, as ``annotation``, and in seconds, as ``events_s``."""
        if "events" not in row and "text" in row:
            return {**row, "annotation": row["text"]}
        spans: dict[str, str] = {}
        for event in row["events"]:
            name, times = event["event"], f"({written_s(event['start_s'])} {written_s(event['end_s'])})"
            if [e.name for e in read_events(f"<event>{name}, (0 1)</event>", 1)] != [name]:
                raise ValueError(f"the event name {name!r} cannot be written as <event>NAME, (0 1)</event>")
            spans[name] = spans.get(name, "") + times
        tags = "".join(f"<event>{name}, {times}</event>" for name, times in spans.items())
        timed = [{"label": e["event"], "start_s": e["start_s"], "end_s": e["end_s"]} for e in row["events"]]
        return {**row, "annotation": tags, "events_s": timed}

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        return (
            f"Choose the events from: {', '.join(classes_of(spec))}. For each event, write its name and its "
            f"start and end in whole seconds from 0 to {self.clip_s} inside tags: "
            f"<event>{classes_of(spec)[0]}, (2 5)</event>"
        )

    def direct(self, sample: Sample) -> str:
        """Return ``<event>NAME, (s e)(s e)</event>`` for the one event, or every block of the annotation.

        Raises:
            ValueError: If the annotation contains no ``<event>`` tags.
        """
        fields = sample.fields
        if "event" in fields:
            return f"<event>{fields['event']}, ({fields['start_s']} {fields['end_s']})</event>"
        blocks = [body for _, tag, end, body in tag_bodies(fields["annotation"], "event") if tag == end]
        if not blocks:
            raise ValueError(f"{describe(sample)}: annotation {fields['annotation']!r} has no <event> tags")
        return "".join(f"<event>{body}</event>" for body in blocks)

    def by_window(self, sample: Sample, spec: DatasetSpec) -> bool:
        """Return whether true times in seconds are known, and only mean average precision is scored."""
        timed = bool(sample.fields.get("events_s")) or "event" in sample.fields
        return timed and chosen(spec, _METRICS, ("segment_accuracy",)) == ["map"]

    def stitch(
        self,
        parts: Sequence[tuple[ClipWindow, tuple[EventSpan, ...] | None]],
        sample: Sample,
        spec: DatasetSpec,
    ) -> tuple[EventSpan, ...] | None:
        """Return the events of all windows in seconds of the clip; touching events of a class are joined."""
        found = [
            in_whole_clip(e, window, self.length_s(sample)) for window, events in parts for e in events or ()
        ]
        if all(events is None for _, events in parts):
            return None
        return joined(found, spec.classes or ())

    def windowed(self, sample: Sample, window: ClipWindow, spec: DatasetSpec) -> Sample:
        """Return the sample of a window, with the times of its events; ``<event></event>`` means no event."""
        events, clip_s = _timed_events(sample), self.length_s(sample)
        times: dict[str, str] = {}
        seconds = []
        for event in events:
            if (inside := in_window(event, window, clip_s)) is None:
                continue
            times[event.name] = times.get(event.name, "") + f"({inside.start_s:g} {inside.end_s:g})"
            start_s = max(event.start_s, window.start_s) - window.start_s
            end_s = min(event.end_s, window.end_s) - window.start_s
            seconds.append({"label": event.name, "start_s": start_s, "end_s": end_s})
        tags = "".join(f"<event>{name}, {spans}</event>" for name, spans in times.items()) or NOTHING
        length_s = window.end_s - window.start_s
        fields = {k: v for k, v in sample.fields.items() if k not in ("event", "start_s", "end_s")}
        fields |= {"annotation": tags, "events_s": seconds, "duration_s": length_s}
        return windowed(sample, window, events, fields, tags, clip_s)

    def beyond(self, text: str, sample: Sample) -> list[str]:
        """Return the events of an answer that end after the clip."""
        return behind(read_events(plain(text), ANY_LENGTH_S), self.length_s(sample))

    def remarks(self, sample: Sample) -> list[str]:
        """Return remarks on annotated events that are not inside the clip or have no length."""
        if "event" in sample.fields:
            found = _timed_events(sample)
        else:
            found = read_events(sample.fields["annotation"], ANY_LENGTH_S)
        lost = timeless(sample.fields["annotation"]) if "annotation" in sample.fields else ()
        told = [f"the event {body!r} of the annotation has no times that can be read" for body in lost]
        return told + cut_off_remarks(sample, found, self.length_s(sample))

    def caveats(
        self, samples: Sequence[Sample], spec: DatasetSpec, lengths_s: Mapping[str, float]
    ) -> list[str]:
        """Return warnings about events at the same time and about short clips, which segment accuracy has."""
        if "segment_accuracy" not in chosen(spec, _METRICS, ("segment_accuracy",)):
            return []
        found, together = [], 0
        for sample in samples:
            with suppress(ValueError):  # reported for its row
                named = {(second, e.name) for e in self.truth(sample, spec) for second in e.seconds}
                together += len(named) > len({second for second, _ in named})
        if together:
            found.append(
                f"in {together:,} of {counted(len(samples), 'row')}, several events happen in the same"
                " second. segment_accuracy knows one event in each second and takes the first of the row."
                " Name the most important event first, or score with `metrics: [map]`"
            )
        known = [(lengths_s[s.id], self.length_s(s)) for s in samples if s.id in lengths_s]
        if short := sum(length_s < clip_s - 1 for length_s, clip_s in known):
            found.append(
                f"of {counted(len(known), 'clip')}, {short:,} {'ends' if short == 1 else 'end'} more than a"
                f" second before the clip length of {known[0][1]} s. segment_accuracy scores the seconds"
                " after their end as background, so that even an answer that cannot be read gets points."
                " State the length of the clips as `clip_s` of the dataset's entry"
            )
        return found

    def truth(self, sample: Sample, spec: DatasetSpec) -> tuple[EventSpan, ...]:
        """Return the annotated events with the names in ``spec.classes``; an event of no length is left out.

        For a long clip that is tested by windows, the times are the true times in seconds.

        Raises:
            ValueError: If an event is not in ``spec.classes``, or the annotation cannot be read.
        """
        classes = classes_of(spec)
        named = []
        for event in self._annotated(sample) if sample.whole_s is None else _timed_events(sample):
            index = class_index(event.name, classes)
            if index is None:
                raise ValueError(
                    f"{describe(sample)}: event {event.name!r} is not one of the dataset's classes: "
                    f"{', '.join(classes)}. Correct the row, or leave `classes` out to take them from "
                    "the manifests."
                )
            named.append(EventSpan(classes[index], event.start_s, event.end_s))
        return tuple(named)

    def _annotated(self, sample: Sample) -> list[EventSpan]:
        fields = sample.fields
        if "event" in fields:
            start_s, end_s = fields["start_s"], fields["end_s"]
            if end_s < start_s:
                raise ValueError(
                    f"{describe(sample)}: the event {fields['event']!r} ends at {end_s} s, before it starts"
                    f" at {start_s} s. Correct the row, or exchange the columns of start_s and end_s"
                )
            span = whole_span(start_s, end_s, self.length_s(sample))
            return [EventSpan(fields["event"], *span)] if span else []
        events = read_events(fields["annotation"], self.length_s(sample))
        if not events and not says_nothing(fields["annotation"]):
            raise ValueError(
                f"{describe(sample)}: no event can be read from {fields['annotation']!r}; it must be "
                "<event>NAME, (start end)</event>. Correct the row or remove it."
            )
        return events

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> tuple[EventSpan, ...] | None:
        """Read events with spans; ``None`` if the text has no span inside the clip.

        ``<event></event>`` means that there is no event, and gives an empty tuple. An event with an unknown
        name is kept, and is scored as wrong.
        """
        text = plain(text)
        found = read_events(loosened_times(text) if self.lenient else text, self.length_s(sample))
        if self.lenient and not found:
            found = [event for _, event in json_events(text, self.length_s(sample))]
        return tuple(found) or (() if says_nothing(text) else None)

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the metrics that the dataset's entry names."""
        made: dict[str, Metric | MetricCollection] = {}
        for name in chosen(spec, _METRICS, ("segment_accuracy",)):
            if name == "map":
                made[name] = EventMeanAP(len(classes_of(spec)))
            else:
                made[name] = SegmentAccuracy(spec.clip_s or self.clip_s)
        return MetricCollection(made, compute_groups=False)

    def update(
        self,
        metrics: MetricCollection,
        answer: tuple[EventSpan, ...] | None,
        sample: Sample,
        spec: DatasetSpec,
    ) -> None:
        """Add one clip."""
        truth, classes = self.truth(sample, spec), classes_of(spec)
        for metric in metrics.values():
            if isinstance(metric, EventMeanAP):
                pred_spans, pred_classes = _as_tensors(answer or (), classes)
                true_spans, true_classes = _as_tensors(truth, classes)
                if sample.whole_s is None and (timed := _true_times(sample, classes)) is not None:
                    true_spans, true_classes = timed
                    # True and predicted times are then both in seconds.
                    pred_spans *= float(sample.fields["duration_s"]) / self.length_s(sample)
                scores = torch.ones(len(pred_classes), dtype=torch.float64)
                metric.update(pred_spans, pred_classes, scores, true_spans, true_classes)
            else:
                pred = segment_classes(answer or (), classes, self.length_s(sample))
                true = segment_classes(truth, classes, self.length_s(sample))
                metric.update(torch.tensor([pred]), torch.tensor([true]))

    def score(self, answer: tuple[EventSpan, ...] | None, sample: Sample, spec: DatasetSpec) -> float | None:
        """Return the fraction of correct segments; ``None`` if only mean average precision is reported."""
        if "segment_accuracy" not in chosen(spec, _METRICS, ("segment_accuracy",)):
            return None
        classes = classes_of(spec)
        pred = segment_classes(answer or (), classes, self.length_s(sample))
        true = segment_classes(self.truth(sample, spec), classes, self.length_s(sample))
        return sum(a == b for a, b in zip(pred, true, strict=True)) / self.length_s(sample)

    def headline(self, spec: DatasetSpec) -> str:
        """Return ``segment_accuracy``, or ``map_average`` if the dataset's entry names ``map`` first."""
        first = chosen(spec, _METRICS, ("segment_accuracy",))[0]
        return "map_average" if first == "map" else first

    def note(self, spec: DatasetSpec) -> str | None:
        """Return remarks on the ranking of events in mean average precision, and on lenient reading."""
        scored = "map" in chosen(spec, _METRICS, ("segment_accuracy",))
        return "; ".join([CONSTANT_SCORE] * scored + [LENIENT] * self.lenient) or None

    def class_names(self, samples: Sequence[Sample]) -> list[str]:
        """Return the event names that occur in these samples."""
        return distinct_names([event.name for sample in samples for event in self._annotated(sample)])

    def jsonable(self, answer: tuple[EventSpan, ...]) -> Any:
        """Return a list with one object for each event."""
        return [{"event": e.name, "start_s": e.start_s, "end_s": e.end_s} for e in answer]


def _as_tensors(events: Sequence[EventSpan], classes: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return spans ``(N, 2)`` and classes ``(N,)``, -1 for an unknown name."""
    spans = torch.tensor([[e.start_s, e.end_s] for e in events], dtype=torch.float64).reshape(-1, 2)
    found = [class_index(e.name, classes) for e in events]
    return spans, torch.tensor([-1 if index is None else index for index in found], dtype=torch.int64)


def _timed_events(sample: Sample) -> list[EventSpan]:
    """Return the events of a clip at their true times in seconds."""
    fields = sample.fields
    if "event" in fields:
        return [EventSpan(fields["event"], float(fields["start_s"]), float(fields["end_s"]))]
    return [EventSpan(e["label"], float(e["start_s"]), float(e["end_s"])) for e in fields["events_s"]]


def _true_times(sample: Sample, classes: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return true spans ``(N, 2)`` in seconds and classes ``(N,)``; ``None`` if they are not known."""
    events = sample.fields.get("events_s")
    if not events or not sample.fields.get("duration_s"):
        return None
    indices = [class_index(event["label"], classes) for event in events]
    if None in indices:
        label = events[indices.index(None)]["label"]
        raise ValueError(f"{describe(sample)}: events_s has {label!r}, which is not a class of the dataset")
    spans = [[event["start_s"], event["end_s"]] for event in events]
    return torch.tensor(spans, dtype=torch.float64), torch.tensor(indices, dtype=torch.int64)
