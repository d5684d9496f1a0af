"""Each encoder gives what transformers' own processor and class give, alone and in a padded batch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from crab_lightning.encoders import (
    AudioEncoder,
    BeatsAudio,
    ClipVision,
    DinoVision,
    PeAudio,
    PeVision,
    SiglipVision,
    VisualEncoder,
    WhisperAudio,
)
from crab_lightning.mini.checkpoints.composite import save_tiny_beats
from crab_lightning.models import LlmVaModule
from crab_lightning.models.checkpoints import plain_arguments, typed_arguments
from crab_lightning.models.composite import loaded
from crab_lightning.models.connectors import Connector, ConnectorConfig
from tests.encoders.checkpoints import HIDDEN, PATCH, write
from tests.processing.examples import frames, sound

SIDE = 2 * PATCH
Find = Callable[[str], Path]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Find:
    folder = tmp_path_factory.mktemp("encoders")

    def path(name: str) -> Path:
        if name == "beats" and not (folder / name).exists():
            save_tiny_beats(folder / name, HIDDEN, 2)
        elif not (folder / name).exists():
            write(name, folder, SIDE)
        return folder / name

    return path


VISUAL: dict[str, Callable[[str], VisualEncoder]] = {
    "siglip": SiglipVision,
    "siglip2": SiglipVision,
    "dinov2": lambda path: DinoVision(path, size_px=SIDE),
    "dinov2_registers": lambda path: DinoVision(path, size_px=SIDE),
    "dinov3": lambda path: DinoVision(path, size_px=SIDE),
    "pe_av": PeVision,
}
AUDIO: dict[str, Callable[[str], AudioEncoder]] = {
    "beats": BeatsAudio,
    "whisper": WhisperAudio,
    "pe_av": PeAudio,
}


class Owner:
    """Takes an encoder, as a module does."""

    def __init__(self, encoder: Any) -> None: ...


def needs(name: str) -> None:
    if name == "pe_av":
        pytest.importorskip("timm")


def stock_pe_av(folder: Path) -> Any:
    """Return the library's own model of all of PE-AV, of which the encoders here load a half."""
    pytest.importorskip("transformers", "5.23", reason="5.22 and older cannot load their own PE-AV")
    return transformers.PeAudioVideoModel.from_pretrained(folder).eval()


def preprocessed(name: str, pictures: Tensor) -> dict[str, Tensor]:
    """Return the model's inputs as its own image processor makes them."""
    size = {"height": SIDE, "width": SIDE}
    if name == "siglip2":
        made: Any = transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=4)
    elif name == "siglip":
        made = transformers.SiglipImageProcessor(size=size)
    else:
        colours = (
            ([0.5] * 3, [0.5] * 3) if name == "pe_av" else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        )
        made = transformers.ViTImageProcessor(size=size, image_mean=colours[0], image_std=colours[1])
    found: dict[str, Tensor] = made(images=list(pictures), return_tensors="pt")
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", list(VISUAL))
def test_features_of_frames_are_those_of_the_librarys_processor_and_class(name: str, find: Find) -> None:
    needs(name)
    encoder = VISUAL[name](str(find(name)))
    assert encoder.side_px == SIDE
    pictures = frames(3, size_px=SIDE)
    tower: Any = encoder.load(torch.float32)
    found = encoder.features(tower, pictures, torch.tensor([2, 1]))
    assert found.shape == (3, encoder.tokens, encoder.width(tower))
    inputs = preprocessed(name, pictures)
    if name == "pe_av":
        whole = stock_pe_av(find(name))
        half = whole.video_model.video_encoder
        pixels = inputs["pixel_values"]
        clips = [half(clip[None]).last_hidden_state[0] for clip in (pixels[:2], pixels[2:])]
        wanted = torch.cat(clips)[:, None]
    else:
        whole = transformers.AutoModel.from_pretrained(find(name)).eval()
        wanted = getattr(whole, "vision_model", whole)(**inputs).last_hidden_state
        wanted = wanted[:, wanted.shape[1] - encoder.tokens :]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", list(AUDIO))
def test_a_padded_piece_of_sound_has_the_features_that_it_has_alone(name: str, find: Find) -> None:
    encoder = AUDIO[name](str(find(name)))
    tower = encoder.load(torch.float32)
    pieces = [encoder.prepared(sound(seconds, 3)) for seconds in (2.33, 1.0, 0.4, 0.001)]
    steps = torch.tensor([len(piece) for piece in pieces])
    padded = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    found, own = encoder.encoded(tower, padded, steps)
    assert own is not None
    assert own.sum(1).tolist() == [encoder.tokens(len(piece)) for piece in pieces]
    assert abs(int(own[0].sum()) - 2.33 * encoder.tokens_per_s) < 10
    for row, mask, piece in zip(found, own, pieces, strict=True):
        alone, whole = encoder.encoded(tower, piece[None], torch.tensor([len(piece)]))
        assert whole is None
        assert alone.shape[-1] == encoder.width(tower)
        torch.testing.assert_close(row[mask], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_whisper_hears_what_its_own_extractor_prepares(find: Find) -> None:
    encoder = WhisperAudio(str(find("whisper")))
    tower: Any = encoder.load(torch.float32)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    for seconds, tokens in ((1.0, 50), (0.73, 37), (0.005, 1)):
        wave = sound(seconds, 1)
        bank = encoder.prepared(wave)
        found = encoder.features(tower, bank[None], torch.tensor([len(bank)]))[0]
        theirs = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
        assert len(found) == tokens
        # the extractor cuts a whole second short of the silence behind it, so its last frames differ
        inner = tokens if seconds < 1 else 0
        assert inner == 0 or torch.allclose(found, tower(theirs).last_hidden_state[0, :tokens], atol=1e-4)


@torch.no_grad()
def test_pe_av_hears_what_its_own_extractor_prepares(find: Find) -> None:
    import soxr

    encoder = PeAudio(str(find("pe_av")))
    tower: Any = encoder.load(torch.float32)
    wave = sound(0.5, 1)
    high = soxr.resample(wave.numpy(), 16_000, 48_000)
    theirs = transformers.PeAudioFeatureExtractor()(high, sampling_rate=48_000, return_tensors="pt")
    whole = stock_pe_av(find("pe_av"))
    wanted = whole.audio_model.audio_encoder(theirs["input_values"]).last_hidden_state
    found = encoder.features(tower, encoder.prepared(wave)[None], torch.tensor([13]))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*VISUAL, *AUDIO])
def test_encoder_travels_to_workers_is_planned_and_is_kept_in_checkpoints(name: str, find: Find) -> None:
    needs(name)
    encoder = (VISUAL | AUDIO)[name](str(find(name)))  # type: ignore[operator]
    with torch.device("meta"):
        planned = pickle.loads(pickle.dumps(encoder)).build()
    loaded = encoder.load(torch.bfloat16)
    sizes = {name: weight.shape for name, weight in loaded.named_parameters()}
    assert {name: weight.shape for name, weight in planned.named_parameters()} == sizes
    assert encoder.width(planned) == encoder.width(loaded)
    assert encoder.ffn > 0

    stored = plain_arguments({"encoder": encoder})
    again = typed_arguments(Owner, stored)["encoder"]
    assert type(again) is type(encoder)
    assert plain_arguments({"encoder": again}) == stored


class Colours(VisualEncoder):
    """An encoder of a contributor: the mean colours of each frame, 3 wide."""

    side_px, tokens = 4, 1

    def __init__(self, pretrained: str = "", gain: float = 1.0) -> None:
        super().__init__(pretrained)

    def build(self) -> nn.Module:
        return nn.Identity()

    def load(self, dtype: torch.dtype) -> nn.Module:
        return self.build()

    def width(self, tower: nn.Module) -> int:
        return 3

    def features(self, tower: nn.Module, frames: Tensor, counts: Tensor) -> Tensor:
        return frames.float().mean((2, 3))[:, None]


def test_an_encoder_whose_members_do_not_fit_each_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, pictures, counts = Colours(), torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.tensor([5])
    connector = Connector(ConnectorConfig(queries=2, hidden=16, heads=2, ffn=24), 3, 8, encoder.name)
    assert connector(encoder.encoded(nn.Identity(), pictures, counts)).shape == (10, 8)
    with pytest.raises(
        ValueError, match=r"Colours\.features have the width 4, but Colours\.width returned 3"
    ):
        connector(torch.zeros(5, 1, 4))
    monkeypatch.setattr(Colours, "tokens", 2)
    with pytest.raises(
        ValueError, match=r"features returned the shape \(5, 1, 3\) for 5 pieces, .* has 2 features\."
    ):
        encoder.encoded(nn.Identity(), pictures, counts)
    with pytest.raises(ValueError, match=r"Colours does not store its argument 'gain' as self\.gain"):
        LlmVaModule("llm", vision="clip", beats="beats", visual_encoder=encoder)


class Loudness(AudioEncoder):
    """An encoder of a contributor: four values of the sound every 10 ms."""

    tokens_per_s = 100.0

    def build(self) -> nn.Module:
        return nn.Identity()

    def load(self, dtype: torch.dtype) -> nn.Module:
        return self.build()

    def width(self, tower: nn.Module) -> int:
        return 4

    def prepare(self, audio: Tensor) -> Tensor:
        return audio[: len(audio) // 160 * 160].view(-1, 160)

    def tokens(self, steps: int) -> int:
        return steps

    def features(self, tower: nn.Module, sounds: Tensor, steps: Tensor) -> Tensor:
        return sounds[..., :4]


class OfTheBatch(Loudness):
    def features(self, tower: nn.Module, sounds: Tensor, steps: Tensor) -> Tensor:
        return sounds[..., :4] / sounds.std((1, 2), keepdim=True)  # also of the padding


class ColoursOfTheBatch(Colours):
    def features(self, tower: nn.Module, frames: Tensor, counts: Tensor) -> Tensor:
        return super().features(tower, frames, counts) / frames.float().mean()


def test_an_encoder_whose_features_depend_on_the_batch_is_refused_when_it_is_loaded() -> None:
    for right in (Loudness(""), Colours()):
        assert isinstance(loaded(right, torch.float32), nn.Identity)
    for wrong in (OfTheBatch(""), ColoursOfTheBatch()):
        said = rf"{wrong.name}\.features gives a clip other features .* differ by \d+% of their norm\)"
        with pytest.raises(ValueError, match=said):
            loaded(wrong, torch.float32)


@pytest.mark.parametrize("encoder", [Colours(), Loudness("")])
def test_an_encoder_that_loads_no_module_is_named(
    encoder: Colours | Loudness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(encoder), "load", lambda self, dtype: None)
    with pytest.raises(ValueError, match=r"\.load returns None; it must return the loaded nn\.Module"):
        loaded(encoder, torch.float32)


def test_checkpoint_of_another_family_is_refused_by_name(find: Find, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"visual_encoder .*'siglip_vision_model'; ClipVision reads clip or"):
        _ = ClipVision(str(find("siglip"))).side_px
    with pytest.raises(ValueError, match=r"size_px is 56; for .* it is 28, or left out"):
        _ = SiglipVision(str(find("siglip")), size_px=56).side_px
    with pytest.raises(ValueError, match=r"size_px is 30; .* reads multiples of 14 px"):
        _ = DinoVision(str(find("dinov3")), size_px=30).side_px
    assert SiglipVision(str(find("siglip2")), size_px=56).tokens == 16
    with pytest.raises(ValueError, match="not an imported encoder"):
        typed_arguments(Owner, {"encoder": {"class_path": "os.path.join", "init_args": {}}})
