"""Still images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crab_lightning.media import (
    EmptyMedia,
    MediaLimits,
    MediaTooLarge,
    UnreadableMedia,
    read_image,
    read_mask,
)


def _noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_image_is_stretched_as_pillow_does(name: str, tmp_path: Path) -> None:
    Image.fromarray(_noise(90, 161, 3)).save(tmp_path / name)
    expected = np.asarray(
        Image.open(tmp_path / name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    )
    image = read_image(tmp_path / name)
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_none_keeps_the_size(tmp_path: Path) -> None:
    pixels = _noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", None), torch.from_numpy(pixels).permute(2, 0, 1))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 128, 255]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", None)[:, 0].tolist() == [[255, 127, 0]] * 3


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "clear.png", transparency=0)
    assert read_image(tmp_path / "opaque.png", None)[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert read_image(tmp_path / "clear.png", None)[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(_noise(4, 4, 1)[..., 0]).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", None)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(_noise(8, 16, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", None).shape == (3, 8, 16)


def test_mask_is_every_value_above_zero(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png", None)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[False, True, True, True]]


def test_mask_keeps_hard_edges_when_resized(tmp_path: Path) -> None:
    pixels = np.zeros((448, 448), np.uint8)
    pixels[:, 224:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png", 224)
    assert mask[:, 112:].all()
    assert not mask[:, :112].any()


def test_broken_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(EmptyMedia, match=r"a\.jpg: has zero bytes"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(UnreadableMedia, match=r"b\.jpg: cannot be read as a picture"):
        read_image(tmp_path / "b.jpg")
    Image.fromarray(_noise(100, 100, 3)).save(tmp_path / "c.jpg")
    data = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "c.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableMedia, match=r"c\.jpg: cannot be read as a picture"):
        read_image(tmp_path / "c.jpg")


def test_large_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (9_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaTooLarge, match=r"9000x9000 pixels, more than MediaLimits.pixels = 67108864"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(MediaTooLarge):
        read_mask(tmp_path / "bomb.png", limits=MediaLimits(pixels=100))


def test_real_frames_and_masks_are_read(real_clips: Path) -> None:
    frames = sorted(real_clips.rglob("*.jpg"))
    masks = sorted(real_clips.rglob("*.png"))
    assert frames
    assert masks
    assert all(read_image(path).shape == (3, 224, 224) for path in frames)
    assert all(read_mask(path).any() for path in masks)
