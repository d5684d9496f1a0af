"""Reads still pictures and masks into tensors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from crab_lightning.media.container import DEFAULT_LIMITS, MediaLimits, check_file, check_pixels
from crab_lightning.media.errors import MediaError, MediaTooLarge, UnreadableMedia
from crab_lightning.media.formats import PICTURE_FORMATS, refusal
from crab_lightning.structures import MaskColours

Made = TypeVar("Made")
Array = np.ndarray[Any, np.dtype[Any]]

_ORIENTATION = 0x0112  # tag of EXIF; 1 is upright
_COLOUR = re.compile(r"#([0-9a-fA-F]{6})")


def read_image(
    path: str | Path, size_px: int | None = 224, *, limits: MediaLimits = DEFAULT_LIMITS
) -> Tensor:
    """Read a picture as RGB, with transparent parts over white, and resize it bicubically to a square.

    Of 16 bits in a channel, the upper 8 are used. In a picture of floating-point numbers, 0 is black and 1 is
    white.

    An EXIF orientation is not applied: the released loader shows the pixels as stored, and the boxes of the
    annotations were drawn on those. For a picture of a user, see :func:`write_upright`.

    Args:
        path: A picture in one of ``PICTURE_FORMATS``.
        size_px: Height and width of the result in pixels; ``None`` keeps the size of the picture.
        limits: Limits on what is read.

    Returns:
        uint8 ``(3, H, W)``.

    Raises:
        MissingMedia: If there is no such file.
        EmptyMedia: If the file has zero bytes.
        UnreadableMedia: If the file is not a picture of such a format, its data end early, or the range of
            its values is not known.
        MediaTooLarge: If the picture has more pixels than ``limits.pixels``.
    """
    picture = _read(path, limits, _rgb)
    if size_px is not None and picture.size != (size_px, size_px):
        picture = picture.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def is_picture(path: str | Path) -> bool:
    """Return whether a file has the header of a picture in ``PICTURE_FORMATS``. Its pixels are not read."""
    try:
        with Image.open(path, formats=PICTURE_FORMATS):
            return True
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def write_upright(path: Path, to: Path, *, limits: MediaLimits = DEFAULT_LIMITS) -> Path:
    """Write a picture as viewers show it, if it has an EXIF orientation other than upright.

    Args:
        path: The picture.
        to: PNG file to write. Its folder must exist.
        limits: Limits on what is read.

    Returns:
        ``to`` if the file was written, or ``path`` if the stored picture is upright.

    Raises:
        MediaError: Under the conditions of :func:`read_image`.
    """

    def turn(picture: Image.Image) -> Image.Image | None:
        if picture.getexif().get(_ORIENTATION, 1) not in range(2, 9):
            return None
        turned = ImageOps.exif_transpose(picture)
        turned.format = picture.format  # needed for pictures with 32 bits of grey
        return _rgb(turned)

    upright = _read(path, limits, turn)
    if upright is None:
        return Path(path)
    upright.save(to)
    return to


def picture_size(path: str | Path, *, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return the width and height of a picture in pixels. Only the header is read.

    Raises:
        MediaError: Under the conditions of :func:`read_image`, but only for errors in the header.
    """
    return _read(path, limits, lambda picture: picture.size, decode=False)


def read_mask(
    path: str | Path,
    size_px: int | None = 224,
    *,
    colours: MaskColours | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Tensor:
    """Read a mask, whose foreground are the values above 0 (AV-UIE v2 section 6); resize to nearest pixels.

    All colours except black are foreground. With a palette, all pixels whose colour is not black are
    foreground if entry 0 has a colour, else all pixels with another entry than 0. If the picture has
    transparent and visible pixels, the transparent ones are background, and all visible ones are foreground
    if all of them are black.

    Args:
        path: A picture in one of ``PICTURE_FORMATS``.
        size_px: Height and width of the result in pixels; ``None`` keeps the size of the picture.
        colours: The values of the object or the background, if the dataset states them. Then the rules above
            are not used.
        limits: Limits on what is read.

    Returns:
        bool ``(H, W)``.

    Raises:
        MediaError: Under the conditions of :func:`read_image`. It is an ``UnreadableMedia`` if ``colours``
            has a wrong value.
    """
    inside = _read(
        path, limits, lambda picture: _foreground(picture) if colours is None else _stated(picture, colours)
    )
    if size_px is not None and inside.shape != (size_px, size_px):
        grey = Image.fromarray(inside.astype(np.uint8) * 255)
        inside = np.array(grey.resize((size_px, size_px), Image.Resampling.NEAREST)) > 0
    return torch.from_numpy(np.ascontiguousarray(inside))


def _read(
    path: str | Path, limits: MediaLimits, make: Callable[[Image.Image], Made], *, decode: bool = True
) -> Made:
    """Open a picture of a listed format, and return the result of ``make``. All errors name the file."""
    path = check_file(path)
    try:
        with warnings.catch_warnings():
            # The limit below is used; Pillow's own warning would not name the file or a remedy.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURE_FORMATS) as picture:
                check_pixels(path, *picture.size, limits)
                if decode:
                    picture.load()
                return make(picture)
    except MediaError:
        raise
    except UnidentifiedImageError as err:
        raise UnreadableMedia(path, refusal(path, PICTURE_FORMATS, "cannot be read as a picture")) from err
    except Image.DecompressionBombError as err:
        raise MediaTooLarge(path, f"is refused by Pillow ({err}) Scale it down.") from err
    # Pillow raises any of these on damaged data.
    except (OSError, SyntaxError, ValueError) as err:
        raise UnreadableMedia(
            path,
            f"cannot be read as a picture ({err}). Download or extract it again, or convert it"
            " to JPEG or PNG.",
        ) from err


def _rgb(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, with transparent parts over white."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        picture = _eight_bits(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return a grey picture of more than 8 bits with 8 bits."""
    values = np.asarray(picture)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("its floating-point values do not lie between 0 and 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):
        raise ValueError("it has 32 bits of grey, and the value of white is not known")
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # the value of transparent pixels
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _foreground(picture: Image.Image) -> Array:
    """Return the foreground of a mask by the rules of :func:`read_mask`, bool ``(H, W)``."""
    values, colour = _channels(picture)
    if picture.mode in ("P", "PA") and not _palette(picture)[0].any():
        colour = None  # entry 0 is black, and all other entries are the object
    coloured: Array = np.asarray(values != 0 if colour is None else colour.any(axis=-1))
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    if not has_alpha or picture.mode.startswith("I"):
        return coloured
    visible: Array = np.asarray(picture.convert("RGBA").getchannel("A")) > 0
    if visible.all() or not visible.any():
        return coloured
    both: Array = visible & coloured
    return both if both.any() else visible


def _stated(picture: Image.Image, colours: MaskColours) -> Array:
    """Return where a mask has the stated values, bool ``(H, W)``."""
    values, colour = _channels(picture)
    named = colours.object if colours.object is not None else colours.background or ()
    found = np.zeros(values.shape[:2], dtype=bool)
    for name in named:
        if isinstance(name, int):
            found |= values == name if values.ndim == 2 else (values == name).all(axis=-1)
        elif (match := _COLOUR.fullmatch(name)) is not None:
            wanted = np.frombuffer(bytes.fromhex(match[1]), np.uint8)
            rgb = colour if colour is not None else np.repeat(values[..., None], 3, axis=-1)
            found |= (rgb == wanted).all(axis=-1)
        else:
            raise ValueError(f"a mask's value is {name!r}; write a whole number, or a colour such as #ff0000")
    return found if colours.object is not None else ~found


def _channels(picture: Image.Image) -> tuple[Array, Array | None]:
    """Return the values of a picture without alpha, ``(H, W)`` or colours, and its colours, if any."""
    if picture.mode in ("P", "PA"):
        index = np.asarray(picture.getchannel("P") if picture.mode == "PA" else picture)
        return index, _palette(picture)[index]
    if picture.mode in ("RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"):
        picture = picture.convert("RGBA").convert("RGB") if picture.mode == "RGBa" else picture.convert("RGB")
    elif picture.mode in ("LA", "La"):
        picture = picture.getchannel("L")
    values = np.asarray(picture)
    return values, values if values.ndim == 3 else None


def _palette(picture: Image.Image) -> Array:
    """Return the colours of a palette, uint8 ``(256, 3)``. Missing entries are black."""
    listed = np.asarray(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return np.concatenate([listed, np.zeros((256 - len(listed), 3), np.uint8)])
