"""Makes the page of ``showcase``, as a figure and as HTML that plays the clip without a network."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crab_lightning.fonts import new_figure
from crab_lightning.templates import picture_uri, render

if TYPE_CHECKING:
    from crab_lightning.segmentation import Overlay

TITLES = {
    "action_recognition": "Action",
    "emotion_recognition": "Emotion",
    "event_localization": "Events",
    "event_parsing": "Seen and heard",
    "cross_modal_matching": "Matching",
    "segmentation": "The sounding object, as a mask",
    "referring_segmentation": "The named object, as a mask",
    "image_grounding": "The sounding object, as a box",
    "captioning": "Caption",
    "question_answering": "Question",
}
"""Headings of the tasks, in the order of the page. Other tasks follow with their key as the heading."""

# Okabe and Ito, some darker, so that white text can be read.
_COLOURS = ("#0072b2", "#c04f00", "#00805e", "#a4508b", "#37718e", "#806000")


@dataclass
class Lane:
    """One row of the timeline.

    Args:
        name: ``event``, ``seen`` or ``heard``.
        spans: Name, start and end in seconds of each event.
        empty: Text if there is no event.
    """

    name: str
    spans: Sequence[tuple[str, float, float]]
    empty: str = "no event"

    def rows(self) -> list[list[tuple[str, float, float]]]:
        """Return the events in rows, so that no event covers another."""
        rows: list[list[tuple[str, float, float]]] = []
        for span in sorted(self.spans, key=lambda span: (span[1], span[2])):
            free = next((row for row in rows if row[-1][2] <= span[1]), None)
            if free is None:
                rows.append([span])
            else:
                free.append(span)
        return rows or [[]]


@dataclass
class Panel:
    """One question and its answer.

    Args:
        task: Key of the task.
        dataset: Dataset whose settings were used.
        asked: The question.
        answer: The text of the model.
        said: The parsed answer as a short text; empty if the text cannot be parsed.
        truncated: Whether the answer was cut off at the token limit.
        seconds: Time that the answer took, in seconds.
        why_not: The reason why the question was not asked; else empty.
        note: A note.
        lanes: Rows of the timeline for this answer.
        overlay: Picture with the box, points and mask of the answer.
    """

    task: str
    dataset: str
    asked: str = ""
    answer: str = ""
    said: str = ""
    truncated: bool = False
    seconds: float = 0.0
    why_not: str = ""
    note: str = ""
    lanes: Sequence[Lane] = ()
    overlay: Overlay | None = None

    @property
    def title(self) -> str:
        """The heading of the panel."""
        return TITLES.get(self.task, self.task)

    @property
    def short(self) -> str:
        """The short text that is shown large."""
        return self.said or ("cut off at the token limit" if self.truncated else "cannot be read")

    @property
    def told(self) -> str:
        """The result in one line: the parsed answer, the model's text, or the reason why there is none."""
        return self.why_not or self.said or f"{self.answer.strip()} ({self.short})".strip()

    def record(self) -> dict[str, Any]:
        """Return the content of the panel as JSON values."""
        names = ("task", "dataset", "asked", "answer", "said", "truncated", "seconds", "why_not", "note")
        return {name: getattr(self, name) for name in names} | {"said": "" if self.why_not else self.told}


@dataclass
class Showcase:
    """The content of the page.

    Args:
        title: Name of the clip.
        facts: Facts about the clip and the run, by name.
        stills: Frames that are spread over the clip, uint8 ``(F, 3, H, W)``.
        times_s: Times of the frames in seconds.
        duration_s: Length of the timeline in seconds.
        sound_s: Length of the sound in seconds.
        mel: Log-mel spectrogram ``(mel, A)``, with low frequencies first.
        panels: The questions and answers, in order.
        played: The clip as a data URI; ``None`` if the file is too large or browsers cannot play it.
    """

    title: str
    facts: dict[str, str]
    stills: Tensor
    times_s: Sequence[float]
    duration_s: float
    sound_s: float
    mel: Tensor
    panels: Sequence[Panel]
    played: str | None = None
    colours: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(name for lane in self.lanes for name, _, _ in lane.spans)
        self.colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}

    @property
    def lanes(self) -> list[Lane]:
        """The rows of the timeline of all panels."""
        return [lane for panel in self.panels for lane in panel.lanes]

    @property
    def rows(self) -> list[tuple[str, list[tuple[str, float, float]], str]]:
        """The rows of the timeline, each with a label, its events, and a text if there are no events."""
        parts = [(lane, i, row) for lane in self.lanes for i, row in enumerate(lane.rows())]
        return [("" if i else lane.name, row, "" if row else lane.empty) for lane, i, row in parts]

    @property
    def pictures(self) -> list[Panel]:
        """The panels with a picture."""
        return [panel for panel in self.panels if panel.overlay is not None]

    @property
    def cards(self) -> list[Panel]:
        """The panels without a picture whose question was asked."""
        return [panel for panel in self.panels if panel.overlay is None and not panel.why_not]

    @property
    def left_out(self) -> str:
        """A text that names the questions that were not asked, with the reasons."""
        reasons = [f"{p.title} (as {p.dataset}): {p.why_not}" for p in self.panels if p.why_not]
        return "Not asked. " + "; ".join(reasons) if reasons else ""


def spectrogram(show: Showcase) -> NDArray[np.uint8]:
    """Return the spectrogram as an RGB picture, with high frequencies at the top."""
    from matplotlib import colormaps

    mel = show.mel.flip(0).numpy()
    low, high = np.quantile(mel, 0.02), mel.max()
    level = np.clip((mel - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(255 * colormaps["magma"](level)[..., :3]).astype(np.uint8)


def page_figure(show: Showcase) -> Any:
    """Return the page as a matplotlib figure."""
    rows = show.rows
    card_rows = (len(show.cards) + 1) // 2
    lanes_in = 0.34 * len(rows) + 0.1
    heights = [0.75, 1.35, 1.25, lanes_in, 3.7 if show.pictures else 0.01, max(0.01, 1.62 * card_rows)]
    figure = new_figure(figsize=(13, sum(heights) + 1.1), dpi=130)
    top, total = 1.0, sum(heights) + 1.1
    gaps = [0.0, 0.22, 0.2, 0.04, 0.5, 0.0]
    places = []
    for height, gap in zip(heights, gaps, strict=True):
        top -= gap / total
        places.append((top - height / total, height / total))
        top -= height / total
    left, wide = 0.085, 0.88
    figure.text(
        0.035, places[0][0] + 0.55 * places[0][1], show.title, fontsize=19, fontweight="bold", va="center"
    )
    facts = "     ".join(f"{name} {value}" for name, value in show.facts.items())
    figure.text(0.035, places[0][0] + 0.12 * places[0][1], facts, fontsize=10, color="#5d6b7a", va="center")
    _draw_stills(figure, show, places[1])
    sound = figure.add_axes((left, places[2][0], wide, places[2][1]))
    sound.imshow(spectrogram(show), aspect="auto", extent=(0, show.sound_s, 0, 1), interpolation="bilinear")
    sound.set_xlim(0, show.duration_s)
    sound.set_yticks([])
    sound.tick_params(labelbottom=False, length=0)
    sound.set_ylabel("sound", rotation=0, ha="right", va="center", fontsize=10)
    lanes = figure.add_axes((left, places[3][0], wide, places[3][1]), sharex=sound)
    _draw_lanes(lanes, show, rows)
    for i, panel in enumerate(show.pictures):
        _draw_picture(figure, panel, i, len(show.pictures), places[4])
    for i, panel in enumerate(show.cards):
        height = places[5][1] / card_rows
        bottom = places[5][0] + places[5][1] - (i // 2 + 1) * height
        _draw_card(figure, panel, (0.035 + 0.47 * (i % 2), bottom, 0.455, 0.9 * height))
    if show.left_out:
        note = "\n".join(textwrap.wrap(show.left_out, 150))
        figure.text(0.04, places[5][0] - 0.05 / total, note, fontsize=8.5, va="top", color="#5d6b7a")
    return figure


def _draw_stills(figure: Any, show: Showcase, place: tuple[float, float]) -> None:
    count = len(show.stills)
    for i, (still, time_s) in enumerate(zip(show.stills, show.times_s, strict=True)):
        axes = figure.add_axes((0.035 + i * 0.93 / count, place[0], 0.93 / count - 0.006, place[1]))
        axes.imshow(still.permute(1, 2, 0).numpy())
        axes.set_title(f"{time_s:.1f} s", fontsize=8, pad=2, color="#5d6b7a")
        axes.axis("off")


def _draw_lanes(
    axes: Any, show: Showcase, rows: Sequence[tuple[str, list[tuple[str, float, float]], str]]
) -> None:
    for i, (_, row, empty) in enumerate(rows):
        axes.text(show.duration_s / 2, i, empty, ha="center", va="center", color="#5d6b7a")
        for name, start, end in row:
            axes.barh(i, end - start, left=start, height=0.78, color=show.colours[name], linewidth=0)
            axes.text(
                (start + end) / 2, i, name, ha="center", va="center", color="white", fontsize=9, clip_on=True
            )
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, show.duration_s)
    axes.set_xlabel("seconds", fontsize=9, labelpad=1)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="x", color="#d9e0e7", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_picture(figure: Any, panel: Panel, i: int, count: int, place: tuple[float, float]) -> None:
    from crab_lightning.segmentation.overlays import draw_overlay

    assert panel.overlay is not None
    width = 0.93 / count
    axes = figure.add_axes((0.035 + i * width, place[0] + 0.2 * place[1], width - 0.02, 0.68 * place[1]))
    draw_overlay(axes, panel.overlay, size=9)
    axes.set_anchor("W")  # aligned with the text below
    axes.set_title(panel.title, fontsize=12, fontweight="bold", loc="left")
    said = panel.note or ("" if panel.said else panel.short)
    empty = axes.get_xlabel()  # "answered mask: empty", which has no room beside the legend
    axes.set_xlabel("")
    lines = [*_lines(panel.asked, int(92 / count) + 14, 2), *(line for line in (said, empty) if line)]
    figure.text(
        0.035 + i * width,
        place[0] + 0.09 * place[1],
        "\n".join(lines),
        fontsize=8.5,
        va="top",
        color="#5d6b7a",
    )


def _draw_card(figure: Any, panel: Panel, place: tuple[float, float, float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes = figure.add_axes(place)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.axis("off")
    box = FancyBboxPatch(
        (0.005, 0.01), 0.99, 0.98, boxstyle="round,pad=0,rounding_size=0.02", mutation_aspect=4
    )
    box.set(facecolor="#f5f7f9", edgecolor="#d9e0e7")
    axes.add_patch(box)
    dim = "#5d6b7a"
    axes.text(0.025, 0.86, panel.title, fontsize=9.5, color=dim, va="center", fontweight="bold")
    axes.text(0.975, 0.86, f"as {panel.dataset}", fontsize=8.5, color=dim, va="center", ha="right")
    size, width = (15, 46) if len(panel.short) <= 46 else (11, 60)
    short, colour = "\n".join(_lines(panel.short, width, 3)), "#1c2530" if panel.said else "#c04f00"
    axes.text(0.025, 0.74, short, fontsize=size, va="top", color=colour, linespacing=1.25)
    below = f"{panel.note}. {panel.asked}" if panel.note else panel.asked
    raw = [] if panel.answer.strip() == panel.said.strip() else _lines(panel.answer, 92, 2)
    small = "\n".join([*_lines(below, 96, 1 if raw else 2), *raw])
    axes.text(0.025, 0.07, small, fontsize=8, va="bottom", color=dim, linespacing=1.3)


def _lines(text: str, width: int, most: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=most, placeholder=" …") or [""]


def html_page(show: Showcase) -> str:
    """Return the page as HTML that needs no network."""
    from PIL import Image

    frames = (_jpeg(still.permute(1, 2, 0).numpy(), 180) for still in show.stills)
    step = next(s for s in (1, 2, 5, 10, 30, 60, 600, 3600) if show.duration_s / s <= 15 or s == 3600)
    return render(
        "reports/showcase.html.j2",
        title=show.title,
        show=show,
        stills=list(zip(frames, show.times_s, strict=True)),
        sound=_jpeg(np.array(Image.fromarray(spectrogram(show)).resize((1000, 128))), None),
        ticks_s=range(0, int(show.duration_s) + 1, step),
        pictures=[(panel, _painted(panel)) for panel in show.pictures],
    )


def _painted(panel: Panel) -> str:
    """Return the picture of a panel with the box, points and mask of the answer."""
    from crab_lightning.segmentation.overlays import painted

    overlay = panel.overlay
    assert overlay is not None
    image = overlay.image.permute(1, 2, 0).numpy()
    mask = np.zeros(image.shape[:2], bool) if overlay.pred is None else overlay.pred.numpy()
    return _jpeg(painted(image, mask, overlay.prompt), 520)


def _jpeg(pixels: NDArray[np.uint8], longest_px: int | None) -> str:
    """Return a picture as a data URI, with its longer side at most ``longest_px`` pixels."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    if longest_px is not None:
        picture.thumbnail((longest_px, longest_px))
    return picture_uri(picture, quality=88)
