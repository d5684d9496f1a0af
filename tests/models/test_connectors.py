"""Connectors against published outputs; their masks, windows and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crab_lightning.models.connectors import (
    WINDOW_TOKENS,
    Connector,
    ConnectorConfig,
    ConnectorFileError,
    connector_state,
    load_connector,
    save_connector,
)
from crab_lightning.models.vllm_a import WINDOWED


def of_oracle(oracles: Path, name: str, kind: str) -> tuple[Connector, dict[str, Tensor]]:
    values = load_file(oracles / f"{name}.safetensors")
    c = json.loads((oracles / f"{name}.json").read_text())["config"]
    config = ConnectorConfig(
        kind=kind,  # type: ignore[arg-type]
        queries=c["num_query_tokens"],
        hidden=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        ffn=c["intermediate_size"],
        dropout=0.0,
    )
    connector = Connector(config, c["encoder_hidden_size"], 40).eval()
    state = {k.removeprefix("hf."): v for k, v in values.items() if k.startswith("hf.")}
    connector.qformer.load_state_dict(state, strict=True)
    with torch.no_grad():
        connector.queries.copy_(values["query_tokens"])
    return connector, values


@torch.no_grad()
def test_qformer_equals_the_published_code(oracles: Path) -> None:
    connector, values = of_oracle(oracles, "qformer_tiny", "qformer")
    connector.norm = torch.nn.Identity()  # type: ignore[assignment]  # the oracle begins behind it
    connector.norm.weight = torch.ones(1)  # type: ignore[assignment]
    mask = values["input.encoder_attention_mask"].bool()
    found = connector.queried(values["input.encoder_hidden_states"], mask)
    torch.testing.assert_close(found, values["out.last_hidden_state"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_windows_equal_the_published_code(oracles: Path) -> None:
    connector, values = of_oracle(oracles, "window_qformer_tiny", "window_qformer")
    connector.norm.load_state_dict({k: values[f"ln_audio.{k}"] for k in ("weight", "bias")})
    wanted = values["out.window_tokens"]
    found = connector(values["input.audio_features"])
    assert found.shape == (6, 40)
    torch.testing.assert_close(found, connector.projection(wanted).flatten(0, 1), atol=1e-4, rtol=0)


def test_half_a_minute_is_88_tokens() -> None:
    assert WINDOW_TOKENS == 17
    assert [WINDOWED.tokens(n) for n in (1496, 496, 48, 8)] == [88, 29, 2, 1]


def small(kind: str = "qformer", width: int = 20, seed: int = 0) -> Connector:
    torch.manual_seed(seed)
    config = ConnectorConfig(kind=kind, queries=3, hidden=16, heads=2, ffn=24)  # type: ignore[arg-type]
    return Connector(config, 12, width).eval()


@torch.no_grad()
def test_segment_in_a_batch_gives_the_tokens_it_gives_alone() -> None:
    connector = small()
    features = torch.randn(2, 9, 12)
    own = torch.arange(9) < torch.tensor([[9], [5]])
    tokens = connector(features, own).view(2, 3, -1)
    torch.testing.assert_close(tokens[1], connector(features[1:, :5]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[0], connector(features[:1]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_clips_of_any_length_share_a_batch_of_windows() -> None:
    connector = small("window_qformer")
    lengths = [40, 5, 17, 33]  # 2 windows, less than one, exactly one, one and a dropped rest
    features = torch.randn(4, 40, 12)
    own = torch.arange(40) < torch.tensor(lengths)[:, None]
    together = connector(features, own)
    alone = [connector(f[None, :n]) for f, n in zip(features, lengths, strict=True)]
    assert [len(a) // 3 for a in alone] == [2, 1, 1, 1]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_connector_file_gives_the_same_weights_back(tmp_path: Path) -> None:
    first, second = small(), small(seed=1)
    save_connector(connector_state(first), first, "audio", tmp_path / "a.safetensors")
    load_connector(second, "audio", tmp_path / "a.safetensors", "model.audio_connector")
    states = second.state_dict()
    assert all(torch.equal(states[name], value) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("connector", "modality", "message"),
    [
        (small(width=24), "audio", "width is 20, the model has 24"),
        (small("window_qformer"), "audio", "kind is 'qformer', the model has 'window_qformer'"),
        (small(), "visual", "modality is 'audio', the model has 'visual'"),
    ],
)
def test_file_of_another_connector_is_refused(
    tmp_path: Path, connector: Connector, modality: str, message: str
) -> None:
    own = small()
    save_connector(connector_state(own), own, "audio", tmp_path / "a.safetensors")
    with pytest.raises(ConnectorFileError, match=message):
        load_connector(connector, modality, tmp_path / "a.safetensors", "model.audio_connector")


def test_file_that_lacks_weights_or_is_absent_is_refused(tmp_path: Path) -> None:
    own = small()
    state = connector_state(own)
    del state["queries"]
    save_connector(state, own, "audio", tmp_path / "a.safetensors")
    with pytest.raises(ConnectorFileError, match="1 missing: queries"):
        load_connector(own, "audio", tmp_path / "a.safetensors", "model.audio_connector")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ConnectorFileError, match="is not a connector file"):
        load_connector(own, "audio", tmp_path / "b.safetensors", "model.audio_connector")
    with pytest.raises(FileNotFoundError, match=r"model\.audio_connector is .*stage 1"):
        load_connector(own, "audio", tmp_path / "none.safetensors", "model.audio_connector")
