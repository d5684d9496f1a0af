"""The drawings: one large and simple icon in strong colours for each object, face and tool."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crab_lightning.mini.world.vocabulary import CATEGORIES

_CANVAS_PX = 256
_INK = (40, 30, 30, 255)
_RGB = {c.name: (*c.rgb, 255) for c in CATEGORIES}
_WHITE = (255, 255, 255, 255)
_SKIN = ((250, 215, 180, 255), (225, 175, 130, 255), (165, 110, 75, 255))
_HAIR = ((90, 55, 25, 255), (40, 35, 40, 255), (200, 150, 60, 255))

Draw = ImageDraw.ImageDraw


def _violin(d: Draw) -> None:
    red = _RGB["violin"]
    d.rectangle((114, 4, 142, 130), fill=_INK)
    d.ellipse((50, 56, 206, 166), fill=red, outline=_INK, width=6)
    d.ellipse((24, 124, 232, 252), fill=red, outline=_INK, width=6)
    d.rectangle((74, 116, 182, 160), fill=red)
    d.rectangle((118, 70, 138, 226), fill=_INK)
    d.line((8, 246, 248, 30), fill=_WHITE, width=12)
    d.line((8, 246, 248, 30), fill=_INK, width=4)


def _guitar(d: Draw) -> None:
    orange = _RGB["guitar"]
    d.rectangle((4, 110, 110, 146), fill=(120, 70, 20, 255), outline=_INK, width=4)
    d.ellipse((70, 36, 190, 220), fill=orange, outline=_INK, width=6)
    d.ellipse((118, 8, 252, 248), fill=orange, outline=_INK, width=6)
    d.rectangle((126, 62, 168, 194), fill=orange)
    d.ellipse((112, 96, 176, 160), fill=_INK)


def _accordion(d: Draw) -> None:
    green = _RGB["accordion"]
    d.rectangle((4, 30, 72, 226), fill=green, outline=_INK, width=6)
    d.rectangle((184, 30, 252, 226), fill=green, outline=_INK, width=6)
    for i in range(7):
        x = 72 + 16 * i
        top = 60 if i % 2 else 44
        d.rectangle((x, top, x + 16, 256 - top), fill=_WHITE if i % 2 else green, outline=_INK, width=3)
    for y in range(54, 220, 34):
        d.ellipse((28, y, 48, y + 20), fill=_WHITE)
        d.ellipse((208, y, 228, y + 20), fill=_WHITE)


def _banjo(d: Draw) -> None:
    yellow = _RGB["banjo"]
    d.line((24, 24, 150, 150), fill=_INK, width=30)
    d.line((24, 24, 150, 150), fill=yellow, width=18)
    d.ellipse((76, 76, 252, 252), fill=yellow, outline=_INK, width=6)
    d.ellipse((112, 112, 216, 216), fill=_WHITE, outline=_INK, width=5)


def _dog(d: Draw) -> None:
    blue = _RGB["dog"]
    d.ellipse((40, 20, 216, 250), fill=blue, outline=_INK, width=6)
    d.ellipse((4, 30, 74, 190), fill=(25, 50, 160, 255), outline=_INK, width=5)
    d.ellipse((182, 30, 252, 190), fill=(25, 50, 160, 255), outline=_INK, width=5)
    d.ellipse((84, 140, 172, 236), fill=_WHITE)
    d.ellipse((108, 146, 148, 178), fill=_INK)
    for x in (84, 142):
        d.ellipse((x, 76, x + 30, 112), fill=_WHITE)
        d.ellipse((x + 8, 84, x + 24, 106), fill=_INK)


def _cat(d: Draw) -> None:
    pink = _RGB["cat"]
    d.polygon(((14, 4), (110, 70), (24, 140)), fill=pink, outline=_INK, width=6)
    d.polygon(((242, 4), (146, 70), (232, 140)), fill=pink, outline=_INK, width=6)
    d.ellipse((14, 56, 242, 252), fill=pink, outline=_INK, width=6)
    for x in (66, 148):
        d.ellipse((x, 112, x + 42, 154), fill=_WHITE)
        d.ellipse((x + 14, 112, x + 28, 154), fill=_INK)
    d.polygon(((112, 176), (144, 176), (128, 196)), fill=_INK)
    for dy in (-8, 12):
        d.line((20, 190 + dy, 96, 194), fill=_INK, width=5)
        d.line((236, 190 + dy, 160, 194), fill=_INK, width=5)


def _helicopter(d: Draw) -> None:
    cyan = _RGB["helicopter"]
    d.rectangle((4, 20, 252, 40), fill=_INK)
    d.rectangle((112, 30, 128, 84), fill=_INK)
    d.polygon(((130, 110), (246, 96), (246, 136), (130, 170)), fill=cyan, outline=_INK, width=5)
    d.rectangle((228, 66, 250, 152), fill=cyan, outline=_INK, width=5)
    d.ellipse((10, 72, 196, 212), fill=cyan, outline=_INK, width=6)
    d.pieslice((26, 90, 130, 190), 120, 290, fill=_WHITE, outline=_INK, width=4)
    d.rectangle((30, 232, 210, 250), fill=_INK)
    d.line((70, 204, 70, 240), fill=_INK, width=10)
    d.line((150, 204, 150, 240), fill=_INK, width=10)


def _motorcycle(d: Draw) -> None:
    black = _RGB["motorcycle"]
    for x in (4, 146):
        d.ellipse((x, 140, x + 106, 246), fill=black)
        d.ellipse((x + 28, 168, x + 78, 218), fill=(190, 190, 195, 255))
    d.polygon(((50, 190), (80, 104), (210, 104), (206, 190)), fill=black)
    d.polygon(((20, 84), (110, 84), (122, 124), (50, 124)), fill=black)
    d.ellipse((110, 80, 186, 130), fill=(150, 150, 160, 255), outline=black, width=8)
    d.line((186, 104, 206, 20), fill=black, width=16)
    d.line((160, 16, 240, 26), fill=black, width=16)
    d.ellipse((206, 50, 248, 92), fill=(255, 240, 150, 255), outline=black, width=6)


def _face(look: str, person: int) -> Callable[[Draw], None]:
    def draw(d: Draw) -> None:
        d.ellipse((8, 2, 248, 200), fill=_HAIR[person])
        d.ellipse((24, 24, 232, 254), fill=_SKIN[person], outline=_INK, width=5)
        for x in (62, 146):
            wide = 8 if look == "open" else 0
            d.ellipse((x, 92 - wide, x + 48, 128 + wide), fill=_WHITE, outline=_INK, width=4)
            d.ellipse((x + 16, 102, x + 32, 120), fill=_INK)
        if look == "calm":
            d.line((60, 78, 112, 78), fill=_INK, width=9)
            d.line((144, 78, 196, 78), fill=_INK, width=9)
            d.arc((78, 130, 178, 212), 20, 160, fill=(190, 40, 50, 255), width=12)
        elif look == "open":
            d.arc((56, 40, 116, 100), 190, 350, fill=_INK, width=9)
            d.arc((140, 40, 200, 100), 190, 350, fill=_INK, width=9)
            d.ellipse((92, 150, 164, 238), fill=(120, 10, 30, 255), outline=(190, 40, 50, 255), width=8)
        else:
            d.line((54, 62, 114, 90), fill=_INK, width=13)
            d.line((202, 62, 142, 90), fill=_INK, width=13)
            d.arc((74, 182, 182, 270), 205, 335, fill=(190, 40, 50, 255), width=14)

    return draw


def _stick(d: Draw) -> None:
    d.polygon(((6, 210), (210, 6), (250, 46), (46, 250)), fill=(150, 90, 30, 255), outline=_INK, width=6)


def _hammer(d: Draw) -> None:
    d.rectangle((108, 80, 148, 252), fill=(150, 90, 30, 255), outline=_INK, width=6)
    d.rectangle((4, 4, 252, 96), fill=(130, 135, 150, 255), outline=_INK, width=6)


def _box(d: Draw) -> None:
    d.rectangle((4, 4, 252, 252), fill=(150, 60, 200, 255), outline=_INK, width=8)
    d.line((4, 128, 252, 128), fill=_INK, width=8)
    d.line((128, 4, 128, 252), fill=_INK, width=8)


def _brush(d: Draw) -> None:
    d.rectangle((4, 90, 252, 160), fill=(240, 60, 120, 255), outline=_INK, width=6)
    for x in range(14, 250, 40):
        d.rectangle((x, 160, x + 22, 240), fill=_WHITE, outline=_INK, width=4)
    d.rectangle((4, 20, 252, 60), fill=(240, 60, 120, 255), outline=_INK, width=6)
    d.rectangle((110, 60, 146, 90), fill=_INK)


def _ball(d: Draw) -> None:
    d.ellipse((4, 4, 252, 252), fill=(20, 150, 240, 255), outline=_INK, width=8)
    d.pieslice((20, 20, 236, 236), 0, 90, fill=_WHITE)
    d.pieslice((20, 20, 236, 236), 180, 270, fill=_WHITE)


def _walker(d: Draw) -> None:
    green = (20, 130, 90, 255)
    d.ellipse((84, 4, 172, 92), fill=_SKIN[0], outline=_INK, width=6)
    d.rectangle((80, 92, 176, 180), fill=green, outline=_INK, width=6)
    d.line((80, 110, 16, 170), fill=green, width=26)
    d.line((176, 110, 240, 170), fill=green, width=26)
    d.line((104, 176, 56, 246), fill=_INK, width=30)
    d.line((152, 176, 200, 246), fill=_INK, width=30)


_DRAWINGS: dict[str, Callable[[Draw], None]] = {
    draw.__name__.removeprefix("_"): draw
    for draw in (
        *(_violin, _guitar, _accordion, _banjo, _dog, _cat, _helicopter, _motorcycle),
        *(_stick, _hammer, _box, _brush, _ball, _walker),
    )
} | {f"face_{look}_{p}": _face(look, p) for look in ("calm", "open", "frown") for p in range(3)}

SPRITES: tuple[str, ...] = tuple(_DRAWINGS)
"""All names that ``SceneObject.sprite`` may have."""


@cache
def _drawn(name: str) -> Image.Image:
    if name not in _DRAWINGS:
        raise KeyError(f"no drawing is called {name!r}; the drawings are: {', '.join(SPRITES)}")
    canvas = Image.new("RGBA", (_CANVAS_PX, _CANVAS_PX), (0, 0, 0, 0))
    _DRAWINGS[name](ImageDraw.Draw(canvas))
    # Without its empty margins, a drawing fills its whole square, so its box is easy to learn.
    return canvas.crop(canvas.getbbox())


@lru_cache(maxsize=512)
def sprite(name: str, side_px: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.bool_]]:
    """Return a drawing of ``side_px`` times ``side_px`` pixels.

    Returns:
        The colours times the opacity (0 to 255), ``(side, side, 3)``; 255 minus the opacity, ``(side, side,
        1)``; and a mask of the pixels whose opacity is at least one half, ``(side, side)``.

    Raises:
        KeyError: If there is no drawing of this name.
    """
    size = (side_px, side_px)
    rgba = np.asarray(_drawn(name).resize(size, Image.Resampling.BOX, reducing_gap=None), np.uint16)
    opacity = rgba[..., 3:]
    return rgba[..., :3] * opacity, 255 - opacity, opacity[..., 0] >= 128


_BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]] = {
    # name: upper colour, lower colour, place of the line between them as a fraction of the height
    "grey": ((226, 226, 226), (226, 226, 226), 1.0),
    "indoor": ((244, 232, 206), (176, 132, 92), 0.86),
    "outdoor": ((190, 222, 250), (120, 180, 90), 0.86),
    "lilac": ((226, 214, 240), (226, 214, 240), 1.0),
    "mint": ((206, 236, 218), (206, 236, 218), 1.0),
    "sand": ((240, 226, 196), (240, 226, 196), 1.0),
    "rose": ((246, 214, 214), (246, 214, 214), 1.0),
    "sky": ((206, 224, 244), (206, 224, 244), 1.0),
}

BACKGROUNDS: tuple[str, ...] = tuple(_BACKGROUNDS)
"""All names that ``Scene.background`` may have."""


@lru_cache(maxsize=64)
def background(name: str, side_px: int) -> NDArray[np.uint8]:
    """Return a frame without objects, uint8 ``(side_px, side_px, 3)``. The array cannot be changed.

    Raises:
        KeyError: If there is no background of this name.
    """
    if name not in _BACKGROUNDS:
        raise KeyError(f"no background is called {name!r}; the backgrounds are: {', '.join(BACKGROUNDS)}")
    above, below, line = _BACKGROUNDS[name]
    frame = np.empty((side_px, side_px, 3), np.uint8)
    cut = math.ceil(line * side_px)
    frame[:cut], frame[cut:] = above, below
    # The red and the blue part of the colour become darker towards the right and towards the bottom. The
    # vision encoder knows only relative positions. From the shade, it can see where in the frame a patch is,
    # so that even a small model can learn to write coordinates.
    shade = np.linspace(1.0, 0.72, side_px)
    frame[..., 0] = (frame[..., 0] * shade[None, :]).astype(np.uint8)
    frame[..., 2] = (frame[..., 2] * shade[:, None]).astype(np.uint8)
    frame.setflags(write=False)
    return frame
