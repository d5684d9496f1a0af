"""Still images and masks."""

from __future__ import annotations

import struct
import zlib
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
    write_upright,
)
from crab_lightning.structures import MaskColours


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
    with pytest.raises(MediaTooLarge, match=r"9000x9000 pixels, more than data.limits.pixels = 67108864"):
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


def grey_steps(bits: int) -> np.ndarray:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    return ramp.astype(np.uint8) if bits == 8 else ramp * 257


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "big.tiff", "a.pgm"])
def test_sixteen_bits_of_grey_are_the_picture_of_eight(name: str, tmp_path: Path) -> None:
    steps = grey_steps(16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 16 16 65535\n" + steps.astype(">u2").tobytes())
    elif name == "big.tiff":
        Image.frombytes("I;16B", (16, 16), steps.astype(">u2").tobytes()).save(tmp_path / name)
    else:
        Image.fromarray(steps).save(tmp_path / name)
    expected = torch.from_numpy(grey_steps(8))[None].expand(3, -1, -1)
    assert torch.equal(read_image(tmp_path / name, None), expected)


def test_sixteen_bits_of_colour_are_the_picture_of_eight(tmp_path: Path) -> None:
    pixels = _noise(6, 5, 3)
    # Pillow writes no such file: signature, header, rows without a filter.
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.astype(np.uint16) * 257)
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND")
    data = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert torch.equal(read_image(tmp_path / "a.png", None), torch.from_numpy(pixels).permute(2, 0, 1))


def test_floating_point_and_cmyk_pictures(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff", None)[0].flatten().tolist() == list(range(256))
    Image.fromarray(values * 255).save(tmp_path / "b.tiff")
    with pytest.raises(UnreadableMedia, match=r"b\.tiff: .*do not lie between 0 and 1"):
        read_image(tmp_path / "b.tiff")
    Image.fromarray((values * 255).astype(np.int32)).save(tmp_path / "c.tiff")
    with pytest.raises(UnreadableMedia, match="32 bits of grey, and the value of white is not known"):
        read_image(tmp_path / "c.tiff")
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "d.jpg")
    red = read_image(tmp_path / "d.jpg", None).float().mean((1, 2))
    assert (red - torch.tensor([255.0, 0, 0])).abs().max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_own_picture_is_turned_as_viewers_turn_it(orientation: int, name: str, tmp_path: Path) -> None:
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24], corners[:16, 24:], corners[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = {  # how a camera that is held so stores the upright picture
        1: corners, 2: corners[:, ::-1], 3: corners[::-1, ::-1], 4: corners[::-1],
        5: corners.transpose(1, 0, 2), 6: np.rot90(corners), 7: np.rot90(corners, 2).transpose(1, 0, 2),
        8: np.rot90(corners, -1),
    }[orientation]  # fmt: skip
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / name, exif=exif, quality=95)
    upright = write_upright(tmp_path / name, tmp_path / "upright.png")
    assert (upright == tmp_path / name) == (orientation == 1)
    shown = read_image(upright, None)
    assert shown.shape == (3, 32, 48)
    away = shown.int() - torch.from_numpy(corners).permute(2, 0, 1).int()
    assert away[:, ::24, ::32].abs().max() < 40
    # Manifests name pictures as they are stored.
    assert read_image(tmp_path / name, None).shape[1:] == picture.size[::-1]


def disc() -> np.ndarray:
    y, x = np.mgrid[:40, :40]
    return (x - 20) ** 2 + (y - 18) ** 2 < 100


@pytest.mark.parametrize(
    ("palette", "index"),
    [((0, 0, 0, 128, 0, 0), 1), ((0, 0, 0, 0, 0, 4), 1), ((0,) * 6, 1), ((0, 0, 0, 1, 1, 1) + (9,) * 60, 7)],
)
def test_masks_with_a_palette_are_read_by_index(palette: tuple[int, ...], index: int, tmp_path: Path) -> None:
    indexed = Image.frombytes("P", (40, 40), (disc().astype(np.uint8) * index).tobytes())
    indexed.putpalette(list(palette))
    indexed.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", None).numpy(), disc())


def test_palette_whose_first_colour_is_the_object_is_read_by_colour(tmp_path: Path) -> None:
    indexed = Image.frombytes("P", (40, 40), (~disc()).astype(np.uint8).tobytes())
    indexed.putpalette([255, 255, 255, 0, 0, 0])
    indexed.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", None).numpy(), disc())


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 10, 10)])
def test_masks_that_are_cut_out_by_transparency(colour: tuple[int, int, int], tmp_path: Path) -> None:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = colour, disc() * 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", None).numpy(), disc())
    Image.fromarray(rgba).convert("LA").save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "b.png", None).numpy(), disc())


def test_opaque_masks_with_an_alpha_channel_are_read_by_colour(tmp_path: Path) -> None:
    rgba = np.full((40, 40, 4), 255, np.uint8)
    rgba[..., :3] = disc()[..., None] * np.uint8(255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", None).numpy(), disc())
    rgba[..., :3] = 0
    Image.fromarray(rgba).save(tmp_path / "b.png")
    assert not read_mask(tmp_path / "b.png").any()
    Image.fromarray(disc().astype(np.uint16) * 3).save(tmp_path / "c.png")
    assert np.array_equal(read_mask(tmp_path / "c.png", None).numpy(), disc())


def test_colours_that_are_stated_decide(tmp_path: Path) -> None:
    border = np.zeros((40, 40), np.uint8)
    border[disc()], border[:3] = 1, 255
    indexed = Image.frombytes("P", (40, 40), border.tobytes())
    indexed.putpalette([0, 0, 0, 128, 0, 0] + [0] * (253 * 3) + [224, 224, 192])
    indexed.save(tmp_path / "a.png")
    indexed.convert("RGB").save(tmp_path / "b.png")
    Image.fromarray(border).save(tmp_path / "c.png")
    for name, colours in (
        ("a.png", MaskColours(background=(0, 255))),
        ("a.png", MaskColours(object=(1,))),
        ("a.png", MaskColours(object=("#800000",))),
        ("b.png", MaskColours(background=("#000000", "#E0E0C0"))),
        ("c.png", MaskColours(background=(0, 255))),
        ("c.png", MaskColours(object=("#010101",))),
    ):
        found = read_mask(tmp_path / name, None, colours=colours)
        assert np.array_equal(found.numpy(), disc()), (name, colours)
    with pytest.raises(UnreadableMedia, match="write a whole number, or a colour such as #ff0000"):
        read_mask(tmp_path / "a.png", colours=MaskColours(object=("red",)))
    with pytest.raises(ValueError, match="give either `object` or `background`"):
        MaskColours()
