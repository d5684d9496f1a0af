"""The page of ``showcase`` as HTML that plays the clip and needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crab_lightning.commands.showcase_page import Panel, Showcase, spectrogram

_STYLE = Path(__file__).with_name("showcase.css")
# A click on the timeline seeks; a line follows the clip.
_SCRIPT = """
const clip=document.querySelector('video'),cursor=document.querySelector('.cursor'),whole=%s;
if(clip){const draw=()=>{cursor.style.left=100*clip.currentTime/whole+'%%';
if(!clip.paused)requestAnimationFrame(draw)};
clip.onplay=draw;clip.onseeked=draw;
document.querySelector('.over').onclick=e=>{const r=e.currentTarget.getBoundingClientRect();
clip.currentTime=whole*(e.clientX-r.left)/r.width;draw()}}
"""


def html_page(show: Showcase) -> str:
    """Return the page as HTML that needs no network."""
    from PIL import Image

    facts = " · ".join(f"{escape(k)} <b>{escape(v)}</b>" for k, v in show.facts.items())
    stills = "".join(
        f'<figure><img src="{_jpeg(s.permute(1, 2, 0).numpy(), 180)}" alt="">'
        f"<figcaption>{t:.1f} s</figcaption></figure>"
        for s, t in zip(show.stills, show.times_s, strict=True)
    )
    film = f'<div class="film">{stills}</div>'
    if show.played is not None:
        film = f'<div class="head"><video controls src="{show.played}"></video>{film}</div>'
    sound = _jpeg(np.array(Image.fromarray(spectrogram(show)).resize((1000, 128))), None)
    width = f"width:{100 * show.sound_s / show.duration_s:.2f}%"
    pictures = "".join(_html_picture(panel) for panel in show.pictures)
    cards = "".join(_html_card(panel) for panel in show.cards)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(show.title)}</title><style>{_STYLE.read_text(encoding="utf-8")}</style></head><body>
<h1>{escape(show.title)}</h1><p class="dim">{facts}</p>
{film}
<div class="time"><div class="row"><span>sound</span><div class="track">
<img class="mel" src="{sound}" style="{width}" alt="spectrogram">
</div></div>{_html_lanes(show)}{_html_axis(show.duration_s)}
<div class="over"><i class="cursor"></i></div></div>
<div class="pictures">{pictures}</div>
<div class="cards">{cards}</div><p class="dim">{escape(show.left_out)}</p>
<script>{_SCRIPT % f"{show.duration_s:.3f}"}</script></body></html>
"""


def _html_lanes(show: Showcase) -> str:
    rows = []
    for label, row, empty in show.rows:
        bars = "".join(
            f'<b style="left:{100 * start / show.duration_s:.2f}%;'
            f"width:{100 * (min(end, show.duration_s) - start) / show.duration_s:.2f}%;"
            f'background:{show.colours[name]}" title="{escape(name)}, {start:g} to {end:g} s">'
            f"{escape(name)}</b>"
            for name, start, end in row
        )
        body = bars or f'<span class="dim">{escape(empty)}</span>'
        rows.append(
            f'<div class="row"><span>{escape(label)}</span><div class="track lane">{body}</div></div>'
        )
    return "".join(rows)


def _html_axis(duration_s: float) -> str:
    step = next(s for s in (1, 2, 5, 10, 30, 60, 600, 3600) if duration_s / s <= 15 or s == 3600)
    ticks: Iterable[int] = range(0, int(duration_s) + 1, step)
    marks = "".join(f'<u style="left:{100 * t / duration_s:.2f}%">{t} s</u>' for t in ticks)
    return f'<div class="row"><span></span><div class="track axis">{marks}</div></div>'


def _html_picture(panel: Panel) -> str:
    from crab_lightning.segmentation.overlays import painted

    overlay = panel.overlay
    assert overlay is not None
    image = overlay.image.permute(1, 2, 0).numpy()
    mask = np.zeros(image.shape[:2], bool) if overlay.pred is None else overlay.pred.numpy()
    picture = _jpeg(painted(image, mask, overlay.prompt), 520)
    return f'<div class="card"><img src="{picture}" alt="{escape(panel.title)}">{_html_text(panel)}</div>'


def _html_card(panel: Panel) -> str:
    return f'<div class="card">{_html_text(panel)}</div>'


def _html_text(panel: Panel) -> str:
    kind = "said" if panel.said else "bad"
    note = f'<p class="note">{escape(panel.note)}</p>' if panel.note else ""
    body = f'<p class="dim">{escape(panel.asked)}</p>'
    raw = ""
    if panel.answer and panel.answer.strip() != panel.said.strip():
        raw = f"<blockquote>{escape(panel.answer)}</blockquote>"
    time = f" · {panel.seconds:.1f} s" if panel.seconds else ""
    return (
        f'<h2>{escape(panel.title)}<span class="dim">as {escape(panel.dataset)}{time}</span></h2>'
        f'<p class="{kind}">{escape(panel.short)}</p>{note}{raw}{body}'
    )


def _jpeg(pixels: NDArray[np.uint8], longest_px: int | None) -> str:
    """Return a picture as a data URI, its longer side at most so long."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    if longest_px is not None:
        picture.thumbnail((longest_px, longest_px))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
