"""One self-contained HTML page: nothing is fetched when it is opened."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from crab_lightning.reports.charts import bars, boxes_svg, confusion, reliability, spans_svg
from crab_lightning.reports.curves import Curves, dataset_curves, run_curves
from crab_lightning.reports.results import metric_table, results, single_metrics
from crab_lightning.tasks.answers import extract_answer

_TAGGED = re.compile(
    r"(<(answer|event|range|visual|audio)>.*?(?:</\2>|$)|\[[\d ,.]+\])", re.DOTALL | re.IGNORECASE
)

_PLACE = re.compile(r"&lt;(video|image|audio)&gt;")

_STYLE = Path(__file__).with_name("page.css")

_SCRIPT = """
document.getElementById('all').onclick=function(){const d=[...document.querySelectorAll('details')];
const open=d.some(x=>!x.open);d.forEach(x=>x.open=open);this.textContent=open?'close all':'open all'};
"""


@dataclass(frozen=True)
class Still:
    """A picture of a card.

    Args:
        data_uri: The picture itself, ``data:image/...;base64,...``.
        kind: ``frame``, ``image`` (shown larger, boxes above it) or ``sound`` (a spectrogram, shown wide).
        about: Text shown over it.
        duration_s: Seconds that a spectrogram spans, for events drawn below it.
    """

    data_uri: str
    kind: str
    about: str
    duration_s: float | None = None


@dataclass
class Card:
    """One answer of the gallery.

    Args:
        record: Its prediction record.
        stills: Pictures; empty where the media are not there.
        why_bare: What to say when there are no pictures.
    """

    record: Mapping[str, Any]
    stills: Sequence[Still] = ()
    why_bare: str = ""


@dataclass
class DatasetPart:
    """What the page shows of one dataset.

    Args:
        key: Key of the dataset.
        title: Name of the benchmark.
        entry: Its entry in ``metrics.json``.
        records: Its prediction records.
        cards: The gallery.
        gallery_is: What the gallery shows.
        sheet: Best, median and worst masks as a data URI; empty where the run drew none.
    """

    key: str
    title: str
    entry: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    cards: Sequence[Card] = ()
    gallery_is: str = "Failures"
    sheet: str = ""


@dataclass
class Page:
    """The whole page.

    Args:
        title: Name of the run.
        facts: Name and value of what is known about the run.
        summary: The split's entry in ``metrics.json``.
        datasets: Parts in the order of the run.
        curves: Tag -> steps and values of training.
        notes: What is missing and why.
    """

    title: str
    facts: Mapping[str, str]
    summary: Mapping[str, Any]
    datasets: Sequence[DatasetPart]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def render(page: Page) -> str:
    """Return the page as HTML."""
    facts = " · ".join(f"{escape(k)} <b>{escape(v)}</b>" for k, v in page.facts.items())
    links = "".join(f'<a href="#{escape(p.key)}">{escape(p.title)}</a>' for p in page.datasets)
    notes = "".join(f'<p class="dim">{escape(note)}</p>' for note in page.notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(page.title)}</title><style>{_STYLE.read_text(encoding="utf-8")}</style></head><body>
<h1>{escape(page.title)}</h1><p>{facts}</p>{notes}
<h2>Results</h2>{results(page.datasets, page.summary)}
<h2>Curves</h2>{run_curves(page.curves)}
<h2>Datasets</h2><nav>{links} <button id="all">open all</button></nav>
{"".join(_dataset(part, page.curves) for part in page.datasets)}
<script>{_SCRIPT}</script></body></html>
"""


def _dataset(part: DatasetPart, curves: Curves) -> str:
    entry = part.entry
    parts = [
        f'<h3 id="{escape(part.key)}">{escape(part.title)} <span class="dim">{escape(part.key)},'
        f" {escape(str(entry['task']))}</span></h3>"
    ]
    if entry.get("note"):
        parts.append(f'<p class="dim">{escape(entry["note"])}</p>')
    if len(single_metrics(entry)) > 1:
        parts.append(f"<details><summary>All metrics</summary>{metric_table(entry)}</details>")
    grouped = {k: v for k, v in single_metrics(entry).items() if k.startswith("accuracy_")}
    if grouped:
        parts.append(f"<details><summary>By type</summary>{bars(grouped)}</details>")
    pair = []
    if matrix := confusion(part.records):
        pair.append(f"<details open><summary>Confusion matrix</summary>{matrix}</details>")
    if entry.get("calibration"):
        drawn = reliability(entry["calibration"])
        pair.append(f"<details open><summary>Reliability of likelihoods</summary>{drawn}</details>")
    parts.append(f'<div class="pair">{"".join(pair)}</div>' if pair else "")
    parts.append(dataset_curves(curves, str(entry["task"]), part.key, entry.get("headline")))
    if part.sheet:
        drawn = f'<img class="sheet" src="{part.sheet}" alt="predicted and true masks">'
        parts.append(f"<details open><summary>Masks: best, median, worst</summary>{drawn}</details>")
    if part.cards:
        cards = "".join(_card(card) for card in part.cards)
        parts.append(
            f"<details><summary>{escape(part.gallery_is)} ({len(part.cards)})</summary>"
            f'<div class="cards">{cards}</div></details>'
        )
    elif not part.records:
        parts.append('<p class="dim">no prediction file of this dataset in the run folder</p>')
    return "".join(parts)


def _card(card: Card) -> str:
    record = card.record
    stills = "".join(_still(still, record) for still in card.stills)
    score = record.get("score")
    said = "no score of its own" if score is None else f"{100 * score:.0f}"
    state = " <span class='bad'>unreadable</span>" if record.get("parsed") is None else ""
    state += " <span class='bad'>cut off</span>" if record.get("truncated") else ""
    rows = {
        "asked": _PLACE.sub(r'<span class="media">\1</span>', escape(str(record.get("prompt", "")))),
        "answer": _marked(record.get("answer", "")),
        "read as": f"{escape(_short(record.get('parsed')))}{state}",
        "truth": escape(_short(record.get("truth"))),
        "reference": escape(str(record.get("reference", ""))),
        "score": said,
        "likeliest": _candidates(record),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items() if value)
    bare = f'<p class="dim">{escape(card.why_bare)}</p>' if card.why_bare else ""
    return (
        f'<div class="card"><div class="stills">{stills}</div>{bare}<dl>{listed}</dl>'
        f'<p class="dim">{escape(str(record["id"]))}</p></div>'
    )


def _candidates(record: Mapping[str, Any], most: int = 4) -> str:
    """Draw the likeliest candidates with their probabilities; empty where none were weighed."""
    rows = sorted(record.get("candidates", ()), key=lambda row: -row["probability"])[:most]
    shown = "".join(
        f'<div class="share"><i><b style="width:{100 * row["probability"]:.0f}%"></b></i>'
        f"<em>{100 * row['probability']:.0f} %</em><span>{escape(extract_answer(row['text']))}</span></div>"
        for row in rows
    )
    return f"{shown}{'' if record.get('choice_right') else '<span class=bad>wrong</span>'}" if rows else ""


def _still(still: Still, record: Mapping[str, Any]) -> str:
    kind = {"sound": "still wide", "image": "still big"}.get(still.kind, "still")
    layer, below = "", ""
    if still.kind == "image":
        layer = boxes_svg(record.get("truth"), record.get("parsed"), 224)
    elif still.duration_s:
        below = spans_svg(record.get("truth"), record.get("parsed"), still.duration_s)
    about = escape(still.about)
    picture = f'<img src="{still.data_uri}" alt="{about}">{layer}'
    return f'<div class="{kind}" title="{about}">{picture}</div>{below}'


def _marked(text: str) -> str:
    """Escape an answer and mark the part that is read."""
    out, end = [], 0
    for match in _TAGGED.finditer(text):
        out += [escape(text[end : match.start()]), f"<mark>{escape(match[0])}</mark>"]
        end = match.end()
    return "".join([*out, escape(text[end:])])


def _short(value: Any) -> str:
    return (
        "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
