import pickle
import subprocess
import sys
from argparse import ArgumentError
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from crab_lightning.segmentation.decoder import LastUsed, MaskDecoder, MaskRequest
from crab_lightning.segmentation.prompts import Prompt
from crab_lightning.segmentation.sam2 import Sam2Decoder
from crab_lightning.segmentation.sam2_package import Sam2PackageDecoder
from crab_lightning.segmentation.sam3 import Sam3Decoder
from crab_lightning.segmentation.tracker import Sam2Tracker
from crab_lightning.tasks import Segmentation
from tests.segmentation.conftest import CONFIG, OVERRIDES

BOX = (10.0, 12.0, 60.0, 50.0)
POINTS = ((20.0, 20.0), (30.0, 40.0), (50.0, 25.0))
PROMPTS = [Prompt(BOX, POINTS), Prompt(BOX), Prompt(None, POINTS), Prompt(BOX, POINTS[:1])]


def picture(seed: int, height: int = 70, width: int = 90) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 7, 9), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)[0].byte()


def test_both_backends_give_the_same_masks_on_the_same_weights(official: Path, converted: Path) -> None:
    requests = [MaskRequest(picture(0), p) for p in PROMPTS] + [MaskRequest(picture(1, 224, 130), PROMPTS[0])]
    ours = Sam2Decoder(str(converted), "cpu", logits=True).decode(requests)
    theirs = Sam2PackageDecoder(str(official), CONFIG, "cpu", logits=True, overrides=OVERRIDES).decode(
        requests
    )
    for mine, other, request in zip(ours, theirs, requests, strict=True):
        assert mine.shape == request.image.shape[-2:]
        assert mine.std() > 1e-4
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)
    for decoder in (
        Sam2Decoder(str(converted), "cpu"),
        Sam2PackageDecoder(str(official), CONFIG, "cpu", overrides=OVERRIDES),
    ):
        assert isinstance(decoder, MaskDecoder)
        masks = decoder.decode(requests)
        assert all(mask.dtype == torch.bool for mask in masks)
        sure = [logits.abs() > 1e-3 for logits in ours]
        assert all(
            torch.equal(mask[s], (logits > 0)[s]) for mask, logits, s in zip(masks, ours, sure, strict=True)
        )


def test_a_batch_gives_what_single_requests_give(converted: Path) -> None:
    requests = [MaskRequest(picture(i % 3), PROMPTS[i % len(PROMPTS)]) for i in range(9)]
    together = Sam2Decoder(str(converted), "cpu", batch_size=4, logits=True).decode(requests)
    alone = Sam2Decoder(str(converted), "cpu", cache_size=0, logits=True)
    for request, mask in zip(requests, together, strict=True):
        torch.testing.assert_close(mask, alone.decode([request])[0], atol=1e-4, rtol=1e-3)


def test_one_picture_is_embedded_once(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Sam2Decoder.weights(str(converted), "cpu", "float32")
    seen: list[int] = []
    pixels = loaded.pixels
    monkeypatch.setattr(loaded, "pixels", lambda images: seen.append(len(images)) or pixels(images))
    decoder = Sam2Decoder(str(converted), "cpu")
    decoder.decode([MaskRequest(picture(0), p) for p in PROMPTS])
    decoder.decode([MaskRequest(picture(0).clone(), PROMPTS[0]), MaskRequest(picture(1), PROMPTS[0])])
    assert seen == [1, 1]
    without = Sam2Decoder(str(converted), "cpu", cache_size=0)
    without.decode([MaskRequest(picture(0), PROMPTS[0])])
    without.decode([MaskRequest(picture(0), PROMPTS[1])])
    assert seen == [1, 1, 1, 1]


def test_decoders_of_one_process_share_frozen_weights(converted: Path) -> None:
    loaded = Sam2Decoder(str(converted), "cpu").load()
    assert Sam2Decoder(str(converted), "cpu").load() is loaded
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_decoder_is_pickled_without_weights(converted: Path) -> None:
    decoder = Sam2Decoder(str(converted), "cpu")
    decoder.decode([MaskRequest(picture(0), PROMPTS[0])])
    assert len(pickle.dumps(decoder)) < 1000


def test_the_room_is_imported_without_transformers() -> None:
    code = (
        "import sys, crab_lightning.segmentation as s; s.Sam2Decoder('x/y'); s.Sam2PackageDecoder('x');"
        "print('transformers' in sys.modules, 'sam2' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_last_used_keeps_the_youngest() -> None:
    cache, made = LastUsed(2), []

    def make(keys: str) -> dict[str, str]:
        return cache.fill(list(keys), lambda new: [made.append(keys[i]) or keys[i].upper() for i in new])

    assert make("aab") == {"a": "A", "b": "B"}
    make("a")
    make("c")  # b is the oldest now
    make("ab")
    assert made == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            MaskRequest(torch.zeros(3, 4, 4), PROMPTS[0]),
            r"image is torch.float32 \(3, 4, 4\); it must be uint8",
        ),
        (MaskRequest(torch.zeros(4, 4, 3, dtype=torch.uint8), PROMPTS[0]), "it must be uint8"),
        (MaskRequest(picture(0), Prompt()), "the prompt has neither a box nor points"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(request_: MaskRequest, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sam2Decoder("nowhere/at-all").decode([request_])


def test_missing_weights_are_named(tmp_path: Path) -> None:
    request = MaskRequest(picture(0), PROMPTS[0])
    with pytest.raises(FileNotFoundError, match=r"EdgeTAM at .*nowhere: there is no such folder"):
        Sam2Decoder(str(tmp_path / "nowhere")).decode([request])
    (tmp_path / "sam2.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"Convert it first: python cli.py model sam2-convert"):
        Sam2Decoder(str(tmp_path / "sam2.pt")).decode([request])
    for kind in (Sam2Decoder, Sam3Decoder, Sam2Tracker):
        with pytest.raises(ValueError, match="dtype is 'int8'; it must be float32 or bfloat16"):
            kind("x/y", dtype="int8")


class Plain:
    """A user's decoder, without any annotation."""

    def decode(self, requests):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return [torch.ones(request.image.shape[-2:], dtype=torch.bool) for request in requests]


class Other:
    """No decoder."""

    def masks(self, requests: list[MaskRequest]) -> list[Tensor]:
        return []


def test_users_decoder_is_taken_from_a_config_without_annotations() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--task", type=Segmentation)
    path = f"{__name__}.{{}}"
    made = parser.instantiate_classes(
        parser.parse_object({"task": {"mask_decoder": {"class_path": path.format("Plain")}}})
    )
    assert isinstance(made.task.masks.decoder, Plain)
    with pytest.raises(ArgumentError, match="MaskDecoder"):
        parser.parse_object({"task": {"mask_decoder": {"class_path": path.format("Other")}}})
