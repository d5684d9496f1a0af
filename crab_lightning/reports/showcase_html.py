"""The page of ``showcase`` as HTML that plays the clip and needs no network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crab_lightning.reports.showcase_page import Panel, Showcase, spectrogram
from crab_lightning.templates import picture_uri, render


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
    """Return the picture of a panel with what the answer draws on it."""
    from crab_lightning.segmentation.overlays import painted

    overlay = panel.overlay
    assert overlay is not None
    image = overlay.image.permute(1, 2, 0).numpy()
    mask = np.zeros(image.shape[:2], bool) if overlay.pred is None else overlay.pred.numpy()
    return _jpeg(painted(image, mask, overlay.prompt), 520)


def _jpeg(pixels: NDArray[np.uint8], longest_px: int | None) -> str:
    """Return a picture as a data URI, its longer side at most so long."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    if longest_px is not None:
        picture.thumbnail((longest_px, longest_px))
    return picture_uri(picture, quality=88)
