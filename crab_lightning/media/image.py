"""Still images and masks to tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crab_lightning.media.container import DEFAULT_LIMITS, MediaLimits, check_file, check_pixels
from crab_lightning.media.errors import MediaError, MediaTooLarge, UnreadableMedia


def read_image(
    path: str | Path, size_px: int | None = 224, *, limits: MediaLimits = DEFAULT_LIMITS
) -> Tensor:
    """Read a picture as RGB, transparency over white, stretched bicubically to a square.

    An EXIF orientation is not applied: the released loader shows the pixels as stored, and the boxes of the
    annotations were drawn on those.

    Args:
        path: Any format Pillow reads.
        size_px: Side of the square; ``None`` keeps the size.
        limits: Bounds on what is read.

    Returns:
        uint8 ``(3, H, W)``.

    Raises:
        MissingMedia: If there is no such file.
        EmptyMedia: If it has zero bytes.
        UnreadableMedia: If it is no picture, or its data end early.
        MediaTooLarge: If it has more pixels than ``limits.pixels``.
    """
    picture = _over_white(_load(path, limits))
    if size_px is not None and picture.size != (size_px, size_px):
        picture = picture.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def read_mask(path: str | Path, size_px: int | None = 224, *, limits: MediaLimits = DEFAULT_LIMITS) -> Tensor:
    """Read a mask: grey, nearest neighbour, foreground where the value is above 0 (AV-UIE v2 section 6).

    Args:
        path: Any format Pillow reads.
        size_px: Side of the square; ``None`` keeps the size.
        limits: Bounds on what is read.

    Returns:
        bool ``(H, W)``.

    Raises:
        MediaError: As ``read_image``.
    """
    grey = _load(path, limits).convert("L")
    if size_px is not None and grey.size != (size_px, size_px):
        grey = grey.resize((size_px, size_px), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(grey)) > 0


def _load(path: str | Path, limits: MediaLimits) -> Image.Image:
    path = check_file(path)
    try:
        with warnings.catch_warnings():
            # The limit below decides; Pillow's own warning would name neither the file nor a remedy.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                check_pixels(path, *picture.size, limits)
                picture.load()
                return picture
    except MediaError:
        raise
    except Image.DecompressionBombError as err:
        raise MediaTooLarge(path, f"is refused by Pillow ({err}) Scale it down.") from err
    # Pillow raises any of these on damaged data.
    except (OSError, SyntaxError, ValueError) as err:
        raise UnreadableMedia(
            path,
            f"cannot be read as a picture ({err}). Fetch or extract it again, or convert it to JPEG or PNG.",
        ) from err


def _over_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return picture.convert("RGB")
