"""Helpers for all figures: colours, a sheet with positions in inches, wrapped text, PNG bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from crab_lightning.fonts import new_figure

# Colours of Okabe and Ito, which colour-blind readers can distinguish; line style or hatch differ too.
TRUE, SAID, RIGHT, GREY = "#0072b2", "#d55e00", "#007a5a", "#555555"

DPI = 100
LINE = 1.28
"""Height of a line of text divided by its font size."""

Record = Mapping[str, Any]
Words = list[tuple[str, float, dict[str, Any]]]
"""For each text: the wrapped text, the font size and further options."""


class Sheet:
    """A figure on which parts are placed in inches from the upper left corner.

    The layout engines of matplotlib are not used, because they draw everything twice and do not keep columns
    aligned.

    Args:
        width_in: Width in inches.
        height_in: Height in inches.
    """

    def __init__(self, width_in: float, height_in: float) -> None:
        self.width_in, self.height_in = width_in, height_in
        self.figure: Any = new_figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Return axes in a rectangle, given in inches."""
        bottom = self.height_in - top - height
        place = (
            left / self.width_in,
            bottom / self.height_in,
            width / self.width_in,
            height / self.height_in,
        )
        return self.figure.add_axes(place)

    def text(self, left: float, top: float, text: str, size: float = 8.0, **options: Any) -> None:
        """Write text with its upper left corner at a position; ``ha`` and ``va`` choose another corner."""
        # Text is never read as mathematics, because answers may contain dollar signs.
        options = {"va": "top", "linespacing": LINE / 1.16, "parse_math": False} | options
        self.figure.text(
            left / self.width_in, 1 - top / self.height_in, printable(text), fontsize=size, **options
        )

    def texts(self, left: float, top: float, texts: Words, gap: float) -> None:
        """Write texts below each other, with ``gap`` inches between them."""
        for text, size, options in texts:
            self.text(left, top, text, size, **options)
            top += height_of(text, size) + gap

    def line(self, top: float) -> None:
        """Draw a thin horizontal line across the sheet."""
        from matplotlib.lines import Line2D

        height = 1 - top / self.height_in
        self.figure.add_artist(Line2D([0.01, 0.99], [height, height], color="#cccccc", linewidth=0.8))

    def key(self, left: float, top: float, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Draw a legend in one line.

        Args:
            left: Left side in inches.
            top: Upper side in inches.
            entries: Label -> properties of the line or patch before the label.
        """
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        handles: list[Any] = [
            Line2D([], [], label=label, **style) if "linestyle" in style else Patch(label=label, **style)
            for label, style in entries.items()
        ]
        self.figure.legend(
            handles=handles, loc="upper left", ncols=len(handles), fontsize=8, frameon=False,
            bbox_to_anchor=(left / self.width_in, 1 - top / self.height_in), borderpad=0, borderaxespad=0,
            handlelength=2.2, columnspacing=1.6,
        )  # fmt: skip


def png(figure: Any) -> bytes:
    """Return a figure as PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    # Level 1 takes a third of the time of the default level, and gives a tenth more bytes.
    Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert(
        "RGB"
    ).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def printable(text: str) -> str:
    """Return a text in which spaces replace control characters, which fonts cannot draw."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def wrap(
    text: str, width_in: float, size: float = 8.0, lines: int = 3, *, keep_end: bool = False, label: str = ""
) -> str:
    """Return a text broken into lines of a width; a longer text is cut, with an ellipsis.

    Args:
        text: Any text.
        width_in: Width of the column in inches.
        size: Font size in points.
        lines: Largest number of lines.
        keep_end: Cut the beginning and not the end, because the important part of an answer is at its end.
        label: Label before the text, which is never cut.
    """
    room = max(int(width_in * 72 / (0.56 * size)), 8)  # a letter is 0.56 of the font size wide on average
    flat = " ".join(text.split())
    broken = _broken(label + flat, room)
    if len(broken) <= lines:
        return "\n".join(broken)
    if keep_end:
        kept = " ".join(_broken(flat, room)[-lines:])
        # The label takes room in the first line, so words are removed until the text fits.
        while len(broken := _broken(f"{label}… {kept}", room)) > lines:
            kept = kept.partition(" ")[2] or kept[1:]
        return "\n".join(broken)
    return "\n".join([*broken[: lines - 1], broken[lines - 1][: room - 1].rstrip() + "…"])


def _broken(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_on_hyphens=False) or [""]


def cut(text: str, length: int) -> str:
    """Return at most ``length`` characters of a text; if it is cut, the last one is an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def height_of(text: str, size: float = 8.0) -> float:
    """Return the height of wrapped text in inches."""
    return (text.count("\n") + 1) * size * LINE / 72


def verdict(record: Record) -> tuple[str, str]:
    """Return a text with a sign that says how an answer was scored, and the colour of this text."""
    score = record.get("score")
    if record.get("parsed") is None:
        return "✗ cut off at the token limit" if record.get("truncated") else "✗ unreadable", SAID
    if score is None:
        return "– scored over all clips together", GREY
    if score >= 1:
        return "✓ right", RIGHT
    return ("✗ wrong", SAID) if score <= 0 else (f"≈ partly right, {100 * score:.0f} of 100", GREY)


def head_words(record: Record, width_in: float) -> Words:
    """Return the first texts about an answer: the id of its sample, and how the answer was scored."""
    said, colour = verdict(record)
    return [
        (wrap(str(record["id"]), width_in, 7.5, 2), 7.5, {"color": GREY}),
        (wrap(said, width_in, 9, 1), 9, {"color": colour, "weight": "bold"}),
    ]


def lost_words(lost: Iterable[str], width_in: float) -> Words:
    """Return the error messages of media that are not shown."""
    return [(wrap(error, width_in, 7.5, 3, label="not shown:  "), 7.5, {"color": SAID}) for error in lost]
