"""Draws sheets of answers about clips: question and answer beside frames, event spans and spectrogram."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from crab_lightning.dashboards.figures.media import FRAMES, ClipMedia, Sound, Strip, mel_row
from crab_lightning.dashboards.figures.sheet import (
    GREY,
    SAID,
    TRUE,
    Record,
    Sheet,
    Words,
    cut,
    head_words,
    height_of,
    lost_words,
    wrap,
)

_WIDTH, _TEXT, _GUTTER, _MEDIA = 10.85, 3.3, 1.5, 5.7  # as wide as TensorBoard shows on a common screen
_LEFT = 0.2
_MEDIA_LEFT = _LEFT + _TEXT + _GUTTER
_STRIP, _SOUND, _LANE, _AXIS, _GAP = _MEDIA / FRAMES, 0.8, 0.25, 0.34, 0.09
_MOST_LANES = 8
_PLACE = re.compile(r"<(?:video|audio|image)>")


@dataclass
class ClipCard:
    """One answer about a clip.

    Args:
        record: Prediction record of the answer.
        media: The decoded clip.
        heard_s: Length in seconds of the sound that the model gets; ``None`` if it gets all of it.
        length_s: Length in seconds of the time axis of events; that of the clip when left out.
    """

    record: Record
    media: ClipMedia
    heard_s: float | None = None
    length_s: float | None = None


Span = tuple[float, float]


@dataclass
class Lane:
    """The true spans and the answered spans of one event class, in seconds."""

    name: str
    true: list[Span] = field(default_factory=list)
    said: list[Span] = field(default_factory=list)


def events_of(value: Any) -> list[tuple[str, float, float]] | None:
    """Return the label, start and end of each event in an answer as JSON values; ``None`` for other answers.

    Two forms are known: a list of ``{"event", "start_s", "end_s"}``, and ``{"visual": [...], "audio":
    [...]}`` with lists of ``[name, start_s, end_s]``.
    """
    if isinstance(value, dict) and value.keys() == {"visual", "audio"}:
        sides = (("seen", value["visual"]), ("heard", value["audio"]))
        return [(f"{side}: {name}", start, end) for side, events in sides for name, start, end in events]
    if isinstance(value, list) and all(isinstance(v, dict) and v.keys() >= {"event", "end_s"} for v in value):
        return [(str(v["event"]), v["start_s"], v["end_s"]) for v in value]
    return None


def lanes(record: Record) -> list[Lane]:
    """Return a lane for each event class in truth and answer, classes of the truth first."""
    found: dict[str, Lane] = {}
    true, said = (events_of(record.get(key)) or [] for key in ("truth", "parsed"))
    for events, side in ((true, "true"), (said, "said")):
        for name, start, end in events:
            lane = found.setdefault(name.casefold(), Lane(name))
            getattr(lane, side).append((start, end))
    return list(found.values())


def clip_sheet(title: str, cards: Sequence[ClipCard]) -> Any:
    """Return a matplotlib figure of answers below each other: text left, frames, events and sound right.

    Args:
        title: Title of the figure.
        cards: The answers.
    """
    plans = [_plan(card) for card in cards]
    with_events = any(events_of(card.record.get("truth")) is not None for card in cards)
    head = 0.62 if with_events else 0.42
    sheet = Sheet(_WIDTH, head + sum(height + 0.3 for height, _ in plans))
    sheet.text(_LEFT, 0.1, title, 11, weight="bold")
    if with_events:
        entries = {
            "true": {"facecolor": TRUE},
            "answered": {"facecolor": SAID, "hatch": "////", "edgecolor": "white"},
        }
        sheet.key(_MEDIA_LEFT, 0.36, entries)
    top = head
    for number, (height, draw) in enumerate(plans):
        if number:
            sheet.line(top - 0.13)
        draw(sheet, top)
        top += height + 0.3
    return sheet.figure


def _plan(card: ClipCard) -> tuple[float, Callable[[Sheet, float], None]]:
    """Return the height of a card in inches, and the function that draws it."""
    words = _words(card)
    text_height = sum(height_of(text, size) + 0.06 for text, size, _ in words)
    parts = _parts(card)
    media_height = sum(height for height, _ in parts)

    def draw(sheet: Sheet, top: float) -> None:
        sheet.texts(_LEFT, top, words, 0.06)
        for height, part in parts:
            part(sheet, top)
            top += height

    return max(text_height, media_height), draw


def question(record: Record) -> str:
    """Return the question of a record, without the opening text and the placeholders of media."""
    return _PLACE.split(str(record.get("prompt", "")))[-1].strip()


def true_text(record: Record) -> str:
    """Return the true answer as a short text; for a number, the manifest's text is added."""
    truth, reference = record.get("truth"), str(record.get("reference") or "")
    if truth is None:
        return reference or "not in the manifest"
    if (events := events_of(truth)) is not None:
        return "; ".join(f"{name} {start:g}-{end:g} s" for name, start, end in events) or "no event"
    if isinstance(truth, str):
        return truth
    said = json.dumps(truth, ensure_ascii=False)
    return f"{said}  ({reference})" if reference else said


def _words(card: ClipCard) -> Words:
    record = card.record
    return [
        *head_words(record, _TEXT),
        (wrap(question(record), _TEXT, 8, 4, label="asked:  "), 8, {}),
        (wrap(str(record.get("answer", "")), _TEXT, 8, 5, keep_end=True, label="answer:  "), 8, {}),
        (wrap(true_text(record), _TEXT, 8, 3, label="true:  "), 8, {"color": TRUE}),
        *lost_words(card.media.lost, _TEXT),
    ]


def _parts(card: ClipCard) -> list[tuple[float, Callable[[Sheet, float], None]]]:
    """Return the heights in inches of the parts in the media column, and the functions that draw them."""
    media, rows = card.media, lanes(card.record)
    many_videos, many_sounds = len(media.strips) > 1, len(media.sounds) > 1
    durations = [*(s.duration_s for s in media.strips), *(s.duration_s for s in media.sounds)]
    end_s = max([*durations, *([card.length_s] if rows and card.length_s else [])], default=1.0)
    parts: list[tuple[float, Callable[[Sheet, float], None]]] = []
    for number, strip in enumerate(media.strips, 1):
        label = f"video {number}" if many_videos else "frames"
        length_s = end_s if rows else strip.duration_s
        parts.append((_STRIP + _GAP, partial(_frames, strip, label, length_s)))
    if rows:
        shown = min(len(rows), _MOST_LANES)
        parts.append((_LANE * shown + _GAP, partial(_events, rows, end_s)))
    for number, sound in enumerate(media.sounds, 1):
        label = f"sound {number}" if many_sounds else "sound"
        length_s = end_s if rows else sound.duration_s
        parts.append((_SOUND + _AXIS, partial(_spectrogram, sound, label, length_s, card.heard_s)))
    return parts


def _label(sheet: Sheet, top: float, height: float, text: str) -> None:
    sheet.text(_MEDIA_LEFT - 0.42, top + height / 2, text, 8, ha="right", va="center", color=GREY)


def _frames(strip: Strip, label: str, end_s: float, sheet: Sheet, top: float) -> None:
    width = _MEDIA * strip.duration_s / end_s
    axes = sheet.axes(_MEDIA_LEFT, top, width, _STRIP)
    axes.imshow(strip.pixels, extent=(0, strip.duration_s, 0, 1), aspect="auto")
    for cut_at in range(1, FRAMES):
        axes.axvline(cut_at * strip.duration_s / FRAMES, color="white", linewidth=1)
    axes.axis("off")
    _label(sheet, top, _STRIP, label)


def _events(rows: Sequence[Lane], end_s: float, sheet: Sheet, top: float) -> None:
    shown = rows[:_MOST_LANES]
    height = _LANE * len(shown)
    axes = sheet.axes(_MEDIA_LEFT, top, _MEDIA, height)
    for row, lane in enumerate(shown):
        # True spans are above answered ones, so that both are visible.
        axes.broken_barh([(a, b - a) for a, b in lane.true], (row + 0.1, 0.38), color=TRUE)
        axes.broken_barh(
            [(a, b - a) for a, b in lane.said], (row + 0.52, 0.38), facecolor=SAID, hatch="////",
            edgecolor="white", linewidth=0,
        )  # fmt: skip
        rest = len(rows) - len(shown)
        more = f" (+{rest} classes)" if rest and row == len(shown) - 1 else ""
        name = cut(lane.name, 26 - len(more)) + more
        sheet.text(_MEDIA_LEFT - 0.06, top + (row + 0.5) * _LANE, name, 7.5, ha="right", va="center")
    axes.set_xlim(0, end_s)
    axes.set_ylim(len(shown), 0)
    axes.set_yticks(range(len(shown) + 1), [""] * (len(shown) + 1))
    axes.set_xticks(_seconds(end_s), [""] * len(_seconds(end_s)))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def _spectrogram(
    sound: Sound, label: str, end_s: float, heard_s: float | None, sheet: Sheet, top: float
) -> None:
    axes = sheet.axes(_MEDIA_LEFT, top, _MEDIA, _SOUND)
    rows = len(sound.mel)
    axes.imshow(
        sound.mel, origin="lower", aspect="auto", cmap="magma", interpolation="nearest",
        extent=(0, sound.duration_s, -0.5, rows - 0.5),
    )  # fmt: skip
    if heard_s is not None and heard_s < sound.duration_s:
        axes.axvspan(heard_s, sound.duration_s, color="white", alpha=0.65)
        axes.text(
            (heard_s + sound.duration_s) / 2, rows / 2, "not heard by the model", fontsize=8,
            ha="center", va="center",
        )  # fmt: skip
    axes.set_xlim(0, end_s)
    axes.set_xticks(_seconds(end_s))
    axes.set_yticks([mel_row(hz) for hz in (500, 2000, 8000)], ["0.5", "2", "8 kHz"])
    axes.tick_params(labelsize=7, length=2, pad=1.5)
    axes.set_xlabel("seconds", fontsize=7, labelpad=0)
    _label(sheet, top, _SOUND, label)


def _seconds(end_s: float) -> list[float]:
    """Return positions of ticks at whole seconds, at most twelve."""
    step = next(s for s in (1, 2, 5, 10, 30, 60, 300, 3600, 10**9) if end_s / s <= 11)
    return [float(s) for s in range(0, int(end_s + 1e-6) + 1, step)]
