"""One self-contained HTML page: nothing is fetched when it is opened."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from crab_lightning.reports.charts import bars, boxes_svg, confusion, line_chart

_TAGGED = re.compile(
    r"(<(answer|event|range|visual|audio)>.*?(?:</\2>|$)|\[[\d ,.]+\])", re.DOTALL | re.IGNORECASE
)

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
    """

    data_uri: str
    kind: str
    about: str


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
    """

    key: str
    title: str
    entry: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    cards: Sequence[Card] = ()
    gallery_is: str = "Failures"


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
    charts = "".join(line_chart(tag, points) for tag, points in page.curves.items())
    charts = charts or '<p class="dim">no training curves in this run folder</p>'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(page.title)}</title><style>{_STYLE.read_text(encoding="utf-8")}</style></head><body>
<h1>{escape(page.title)}</h1><p>{facts}</p>{notes}
<h2>Results</h2><p class="dim">Percent. Strict: unreadable, cut-off and missing answers are wrong.
Valid only: over readable answers alone, as most papers report.
Majority: the most frequent training answer.</p>
<div class="scroll">{_results(page)}</div>
<h2>Curves</h2><div class="charts">{charts}</div>
<h2>Datasets</h2><nav>{links} <button id="all">open all</button></nav>
{"".join(_dataset(part) for part in page.datasets)}
<script>{_SCRIPT}</script></body></html>
"""


def _results(page: Page) -> str:
    head = [
        "dataset",
        "task",
        "metric",
        "strict",
        "valid only",
        "majority",
        "answers",
        "unparsed",
        "cut off",
        "missing",
        "loss",
    ]
    rows = []
    for part in page.datasets:
        entry, counts = part.entry, part.entry["counts"]
        names = [k for k, v in entry["strict"].items() if not isinstance(v, list)]
        names.sort(key=lambda name: name != entry["headline"])
        for i, metric in enumerate(names or [""]):
            scores = [_percent(entry[p].get(metric)) for p in ("strict", "valid_only", "majority")]
            tail = (
                [f"{counts[k]:,}" for k in ("scored", "unparsed", "truncated", "missing")]
                if not i
                else [""] * 4
            )
            loss = "" if i or entry.get("loss") is None else f"{entry['loss']:.3f}"
            name = f'<a href="#{escape(part.key)}">{escape(part.title)}</a>' if not i else ""
            cells = [
                name,
                "" if i else escape(str(entry["task"])),
                escape(metric or "none"),
                *scores,
                *tail,
                loss,
            ]
            kind = ("first " if not i else "") + ("head" if metric == entry["headline"] else "")
            rows.append(f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    mean = page.summary.get("mean") or {}
    if mean.get("headline") is not None and len(page.datasets) > 1:
        values = [_percent(mean.get(k)) for k in ("headline", "headline_valid_only", "headline_majority")]
        cells = ["mean", "", "headline", *values, *[""] * 5]
        rows.append('<tr class="first head">' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    header = "".join(f"<th>{h}</th>" for h in head)
    return f'<table class="results"><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _dataset(part: DatasetPart) -> str:
    entry = part.entry
    parts = [
        f'<h3 id="{escape(part.key)}">{escape(part.title)} <span class="dim">{escape(part.key)}</span></h3>'
    ]
    single = {k: v for k, v in entry["strict"].items() if not isinstance(v, list)}
    if len(single) > 3:
        shown = "" if entry.get("headline") is None else f"headline {entry['headline']}, "
        about = f"Breakdown ({escape(shown)}{len(single)} metrics)"
        parts.append(f"<details><summary>{about}</summary>{bars(single)}</details>")
    if matrix := confusion(part.records):
        parts.append(f"<details open><summary>Confusion matrix</summary>{matrix}</details>")
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
        "asked": escape(str(record.get("prompt", ""))),
        "answer": _marked(record.get("answer", "")),
        "read as": f"{escape(_short(record.get('parsed')))}{state}",
        "truth": escape(_short(record.get("truth"))),
        "reference": escape(str(record.get("reference", ""))),
        "score": said,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items() if value)
    bare = f'<p class="dim">{escape(card.why_bare)}</p>' if card.why_bare else ""
    return (
        f'<div class="card"><div class="stills">{stills}</div>{bare}<dl>{listed}</dl>'
        f'<p class="dim">{escape(str(record["id"]))}</p></div>'
    )


def _still(still: Still, record: Mapping[str, Any]) -> str:
    kind = {"sound": "still wide", "image": "still big"}.get(still.kind, "still")
    layer = boxes_svg(record.get("truth"), record.get("parsed"), 224) if still.kind == "image" else ""
    about = escape(still.about)
    return f'<div class="{kind}" title="{about}"><img src="{still.data_uri}" alt="{about}">{layer}</div>'


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


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"
