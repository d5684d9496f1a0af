"""BEATs against published outputs, and what its files must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from crab_lightning.commands import main
from crab_lightning.encoders import (
    Beats,
    BeatsConfig,
    BeatsFileError,
    beats_fbank,
    beats_tokens,
    fbank_frames,
    load_beats,
    save_beats,
)


@pytest.fixture(scope="module")
def oracle(oracles: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(oracles / "beats_tiny.safetensors")
    return found


@pytest.fixture(scope="module")
def content(oracle: dict[str, Tensor], oracles: Path) -> dict[str, Any]:
    """A published checkpoint: cfg and weights, with the classifier of a fine-tuned one."""
    cfg = json.loads((oracles / "beats_tiny.json").read_text())["cfg"]
    state = {k.removeprefix("model."): v for k, v in oracle.items() if k.startswith("model.")}
    state |= {"predictor.weight": torch.zeros(527, 48), "predictor.bias": torch.zeros(527)}
    return {"cfg": cfg, "model": state, "label_dict": {0: "/m/09x0r"}}


def written(content: dict[str, Any], folder: Path) -> Path:
    path = folder / "beats.pt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def beats(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Beats:
    return load_beats(written(content, tmp_path_factory.mktemp("beats")))


def test_filter_bank_equals_the_published_one(oracle: dict[str, Tensor]) -> None:
    bank = torch.stack([beats_fbank(wave) for wave in oracle["input.waveform"]])
    # The logarithm magnifies the FFT's rounding in bins of little energy; 2e-5 holds on some processors only.
    torch.testing.assert_close(bank, oracle["out.fbank"], atol=5e-4, rtol=0)
    assert ((bank - oracle["out.fbank"]).abs() < 2e-5).float().mean() > 0.999


@torch.no_grad()
def test_every_layer_equals_the_published_code(beats: Beats, oracle: dict[str, Tensor]) -> None:
    bank = oracle["out.fbank"]
    patches = beats.patches(bank)
    torch.testing.assert_close(patches, oracle["out.patch_tokens"], atol=1e-4, rtol=0)
    torch.testing.assert_close(beats.projected(patches), oracle["out.projected_tokens"], atol=1e-4, rtol=0)
    states = beats.encode(bank, torch.ones(2, 72, dtype=torch.bool))
    torch.testing.assert_close(torch.stack(states), oracle["out.hidden_states"], atol=1e-4, rtol=0)
    torch.testing.assert_close(states[-1], oracle["out.features"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_published_padding_mask_gives_the_published_features(beats: Beats, oracle: dict[str, Tensor]) -> None:
    bank = oracle["out.fbank"]
    padding = oracle["out.padding_mask"].bool()
    found = beats.encode(bank, ~padding)[-1]
    torch.testing.assert_close(found[~padding], oracle["out.features_padded"][~padding], atol=1e-4, rtol=0)


@torch.no_grad()
def test_clip_in_a_batch_gets_the_tokens_it_gets_alone(beats: Beats, oracle: dict[str, Tensor]) -> None:
    long, short = beats_fbank(oracle["input.waveform"][0]), beats_fbank(oracle["input.waveform"][1, :16_800])
    bank = torch.full((2, len(long), 128), 7.0)  # padding of any value
    bank[0], bank[1, : len(short)] = long, short
    tokens, own = beats(bank, torch.tensor([len(long), len(short)]))
    alone = oracle["out.features_short_unpadded"]
    assert own.sum(1).tolist() == [72, alone.shape[1]]
    torch.testing.assert_close(tokens[1:, : alone.shape[1]], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("seconds", "tokens"), [(1, 48), (10, 496), (30, 1496)])
def test_token_counts_are_the_published_ones(seconds: int, tokens: int) -> None:
    assert beats_tokens(fbank_frames(seconds * 16_000)) == tokens


def test_published_shape_has_250_weights_with_a_table_for_every_layer() -> None:
    with torch.device("meta"):
        model = Beats(BeatsConfig())
    assert len(model.state_dict()) + 11 == 250  # files repeat the one table for layers 1 to 11
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(90.3e6, rel=1e-3)
    assert model.encoder.pos_conv[0].weight_g.shape == (1, 1, 128)


def test_folder_gives_the_same_encoder_back(beats: Beats, tmp_path: Path) -> None:
    again = load_beats(save_beats(beats, tmp_path / "beats"))
    assert again.config == beats.config
    states = again.state_dict()
    assert all(torch.equal(states[name], value) for name, value in beats.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].pop("encoder.layers.1.fc1.bias"), r"1 missing: .*layers\.1\.fc1\.bias"),
        (lambda c: c["model"].update(extra=torch.zeros(1)), "1 unknown: extra"),
        (lambda c: c["model"].update({"layer_norm.bias": torch.zeros(3)}), r"\(3,\), must be \(32,\)"),
        (
            lambda c: c["model"].pop("encoder.layers.2.self_attn.relative_attention_bias.weight"),
            "1 weights are mis",
        ),
        (
            lambda c: c["model"].update(
                {"encoder.layers.1.self_attn.relative_attention_bias.weight": torch.ones(32, 4)}
            ),
            "all BEATs layers use one table",
        ),
        (lambda c: c["cfg"].update(layer_norm_first=True), "layer_norm_first is True: no published BEATs"),
        (lambda c: c["cfg"].pop("conv_pos"), "cfg lacks conv_pos"),
        (lambda c: c.pop("cfg"), "contains 'cfg' and 'model'"),
        (lambda c: c.update(label_dict=Path("run code")), "is refused: reading it would load"),
    ],
)
def test_file_that_is_not_exactly_an_encoder_is_refused(
    content: dict[str, Any], tmp_path: Path, change: Any, message: str
) -> None:
    copy = content | {"cfg": dict(content["cfg"]), "model": dict(content["model"])}
    change(copy)
    with pytest.raises(BeatsFileError, match=message):
        load_beats(written(copy, tmp_path))


def test_clip_without_a_token_is_refused(beats: Beats) -> None:
    with pytest.raises(ValueError, match="clip without a token"):
        beats(torch.zeros(2, 40, 128), torch.tensor([40, 15]))


def test_command_writes_the_folder_of_a_published_checkpoint(
    content: dict[str, Any], beats: Beats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "beats.pt", tmp_path / "out"
    words = ["model", "beats-convert", "--checkpoint", str(file), "--out", str(out)]
    with pytest.raises(SystemExit):
        main(words)
    assert "error: --checkpoint: " in (said := capsys.readouterr().err)
    assert f"{file} is not a file" in said
    written(content, tmp_path)
    assert main(words) == 0
    again = load_beats(out).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in beats.state_dict().items())
    assert main(words) == 1
    assert "contains a model already" in capsys.readouterr().err


def test_missing_file_says_which_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="BEATs_iter3_plus_AS2M"):
        load_beats(tmp_path / "none.pt")


def test_text_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "beats.pt").write_text("rubbish\n", encoding="utf-8")
    with pytest.raises(BeatsFileError, match="cannot be read"):
        load_beats(tmp_path / "beats.pt")


def test_torchaudio_of_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    find = builtins.__import__

    def broken(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("torchaudio"):
            raise OSError("Could not load this library: libtorchaudio.so")
        return find(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ImportError, match=r"beside torch .*libtorchaudio.*Install the torchaudio"):
        beats_fbank(torch.zeros(16_000))
