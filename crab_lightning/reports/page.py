"""Makes the HTML page of a run, which needs no other files and no network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from crab_lightning.metrics.scale import read_scale
from crab_lightning.reports.charts import (
    TEMPLATE,
    Curves,
    bars,
    boxes_svg,
    confusion,
    dataset_curves,
    reliability,
    run_curves,
    spans_svg,
)
from crab_lightning.reports.tables import percent
from crab_lightning.tasks.answers import extract_answer
from crab_lightning.templates import draw
from crab_lightning.templates import render as fill

_TAGGED = re.compile(
    r"(<(answer|event|range|visual|audio)>.*?(?:</\2>|$)|\[[\d ,.]+\])", re.DOTALL | re.IGNORECASE
)

_PLACE = re.compile(r"<(video|image|audio)>")

_CANDIDATES = 4
"""Number of the most probable candidates that are shown."""

_PROTOCOLS = ("strict", "valid_only", "majority", "likelihood")


@dataclass(frozen=True)
class Still:
    """A picture in a card.

    Args:
        data_uri: The picture as ``data:image/...;base64,...``.
        kind: ``frame``, ``image`` (shown larger and with boxes) or ``sound`` (a wide spectrogram).
        about: Description of the picture.
        duration_s: Length of a spectrogram in seconds, for the events below it.
    """

    data_uri: str
    kind: str
    about: str
    duration_s: float | None = None


@dataclass
class Card:
    """One answer in the gallery.

    Args:
        record: The prediction record.
        stills: The pictures; empty if the media are missing.
        why_bare: The reason why there are no pictures.
    """

    record: Mapping[str, Any]
    stills: Sequence[Still] = ()
    why_bare: str = ""


@dataclass
class DatasetPart:
    """The part of the page about one dataset.

    Args:
        key: Key of the dataset.
        title: Name of the dataset on the page.
        entry: Entry of the dataset in ``metrics.json``.
        records: Prediction records of the dataset.
        cards: The gallery.
        gallery_is: Title of the gallery.
        sheet: Best, median and worst masks as a data URI; empty if the run drew none.
    """

    key: str
    title: str
    entry: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    cards: Sequence[Card] = ()
    gallery_is: str = "Answers with the lowest scores"
    sheet: str = ""


@dataclass
class Page:
    """The content of the page.

    Args:
        title: Name of the run.
        facts: Facts about the run, by name.
        summary: Entry of the split in ``metrics.json``.
        datasets: Parts about the datasets, in the order of the run.
        curves: Steps and values of each curve of the training, by tag.
        notes: Notes about missing parts, with the reasons.
    """

    title: str
    facts: Mapping[str, str]
    summary: Mapping[str, Any]
    datasets: Sequence[DatasetPart]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def render(page: Page) -> str:
    """Return the page as HTML."""
    return fill(
        "reports/page.html.j2",
        title=page.title,
        facts=page.facts,
        notes=page.notes,
        results=results(page.datasets, page.summary),
        curves=run_curves(page.curves),
        parts=[_dataset(part, page.curves) for part in page.datasets],
    )


def _dataset(part: DatasetPart, curves: Curves) -> dict[str, Any]:
    entry, task = part.entry, str(part.entry["task"])
    metrics = single_metrics(entry)
    types = {name: value for name, value in metrics.items() if name.startswith("accuracy_")}
    return {
        "key": part.key,
        "title": part.title,
        "task": task,
        "note": entry.get("note"),
        "metrics": metric_table(entry) if len(metrics) > 1 else "",
        "types": bars(types) if types else "",
        "confusion": confusion(part.records),
        "reliability": reliability(entry["calibration"]) if entry.get("calibration") else "",
        "curves": dataset_curves(curves, task, part.key, entry.get("headline")),
        "sheet": part.sheet,
        "gallery_is": part.gallery_is,
        "cards": [_card(card) for card in part.cards],
        "without_records": not part.records,
    }


def _card(card: Card) -> dict[str, Any]:
    record = card.record
    score = record.get("score")
    state = {"unreadable": record.get("parsed") is None, "cut off": record.get("truncated")}
    candidates = sorted(record.get("candidates", ()), key=lambda row: -row["probability"])[:_CANDIDATES]
    return {
        "id": str(record["id"]),
        "stills": [_still(still, record) for still in card.stills],
        "why_bare": card.why_bare,
        "prompt": [
            (text, place % 2) for place, text in enumerate(_PLACE.split(str(record.get("prompt", ""))))
        ],
        "answer": _parts(record.get("answer", "")),
        "parsed": _short(record.get("parsed")),
        "state": [word for word, holds in state.items() if holds],
        "truth": _short(record.get("truth")),
        "reference": str(record.get("reference", "")),
        "score": "no score of its own" if score is None else f"{100 * score:.0f}",
        "candidates": [(row["probability"], extract_answer(row["text"])) for row in candidates],
        "choice_right": record.get("choice_right"),
    }


def _still(still: Still, record: Mapping[str, Any]) -> dict[str, Any]:
    truth, parsed = record.get("truth"), record.get("parsed")
    image = still.kind == "image"
    return {
        "kind": still.kind,
        "about": still.about,
        "data_uri": still.data_uri,
        "layer": boxes_svg(truth, parsed, 224) if image else "",
        "below": spans_svg(truth, parsed, still.duration_s) if still.duration_s and not image else "",
    }


def _parts(text: str) -> list[tuple[str, bool]]:
    """Divide an answer into parts, and return for each part whether the parser reads it."""
    out, end = [], 0
    for match in _TAGGED.finditer(text):
        out += [(text[end : match.start()], False), (match[0], True)]
        end = match.end()
    return [part for part in (*out, (text[end:], False)) if part[0]]


def _short(value: Any) -> str:
    return (
        "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )


def single_metrics(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of a dataset that are a single number, with the primary metric first."""
    kept = {k: v for k, v in entry["strict"].items() if not isinstance(v, list)}
    return dict(sorted(kept.items(), key=lambda item: item[0] != entry["headline"]))


def results(parts: Sequence[DatasetPart], summary: Mapping[str, Any]) -> Markup:
    """Return the table with the primary metric and the baseline of every dataset, and its description."""
    weighed = any(part.entry.get("likelihood") for part in parts)
    losses = any(part.entry.get("loss") is not None for part in parts)
    head = ["dataset", "metric", "", "strict", "valid only", "majority"]
    head += ["likelihood", "calibration error"] if weighed else []
    head += ["answers", "unreadable", "cut off", "missing", *(["loss"] if losses else [])]
    rows = []
    for part in parts:
        entry, counts = part.entry, part.entry["counts"]
        metric = entry["headline"] or next(iter(single_metrics(entry)), "")
        scale = read_scale(entry, metric)
        values = {p: (entry.get(p) or {}).get(metric) for p in _PROTOCOLS}
        row = {
            "key": part.key,
            "title": part.title,
            "metric": scale.label(metric) if metric else "none",
            "share": scale.share(values["strict"]),
            "baseline": scale.share(values["majority"]),
            "strict": scale.text(values["strict"]),
        }
        cells = [scale.text(values["valid_only"]), scale.text(values["majority"])]
        if weighed:
            calibration = entry.get("calibration")
            cells += [scale.text(values["likelihood"]), percent(calibration["error"]) if calibration else "–"]
        cells += [f"{counts[k]:,}" for k in ("scored", "unparsed", "truncated", "missing")]
        if losses:
            cells.append("" if entry.get("loss") is None else f"{entry['loss']:.3f}")
        rows.append(row | {"cells": cells})
    mean = summary.get("mean") or {}
    if mean.get("headline") is not None and len(parts) > 1:
        means = [percent(mean.get(k)) for k in ("headline", "headline_valid_only", "headline_majority")]
        rows.append(
            {
                "key": "",
                "title": "mean",
                "metric": "primary metrics, 0 to 100",
                "share": mean["headline"],
                "baseline": mean.get("headline_majority"),
                "strict": means[0],
                "cells": [*means[1:], *[""] * (len(head) - 6)],
            }
        )
    about = (
        "Fractions are in percent. Strict: an unreadable or missing answer counts as an empty prediction."
        " Valid only: only readable answers count, as in most papers. Majority: the score of always giving"
        " the most frequent training answer; the line on the bar shows it."
    )
    if weighed:
        about += " Likelihood: the answer is the most probable one of the closed set."
    return draw(TEMPLATE, "results", about, head, rows)


def metric_table(entry: Mapping[str, Any]) -> Markup:
    """Return a table of all metrics of a dataset that are a single number, in each scoring protocol."""
    protocols = [p for p in _PROTOCOLS if entry.get(p)]
    rows = []
    for metric, value in single_metrics(entry).items():
        scale, majority = read_scale(entry, metric), (entry.get("majority") or {}).get(metric)
        cells = [scale.text(entry[p].get(metric)) for p in protocols]
        rows.append((scale.label(metric), scale.share(value), scale.share(majority), cells))
    return draw(TEMPLATE, "metrics", [p.replace("_", " ") for p in protocols], rows)
