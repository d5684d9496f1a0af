from __future__ import annotations

import pytest
import torch
from rich.console import Console
from torch import nn

from crab_lightning.adapters import ADAPTERS, AdapterConfig, ILoRALinear, LoRALinear, insert_adapters


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width // 2, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.q_proj(x)) + nn.functional.pad(self.k_proj(x), (0, x.shape[-1] // 2))


class Thinker(nn.Module):
    """Shaped like an audio-visual LLM: an encoder and a language model whose layers share names."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_tower = nn.ModuleDict({"layers": nn.ModuleList([Block()])})
        self.language_model = nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()])})
        self.lm_head = nn.Linear(8, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.language_model["layers"]:
            x = layer(x)
        return self.lm_head(x)


def config(**settings: object) -> AdapterConfig:
    defaults: dict[str, object] = {"rank": 2, "target_modules": ["q_proj", "k_proj"]}
    return AdapterConfig(**(defaults | settings))  # type: ignore[arg-type]


def adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]


def test_only_the_language_model_is_adapted_by_default() -> None:
    model = Thinker()
    report = insert_adapters(model, config())
    names = [f"language_model.layers.{i}.{end}" for i in (0, 1) for end in ("q_proj", "k_proj")]
    assert adapted(model) == names == list(report.names)
    assert isinstance(model.language_model["layers"][0].q_proj, ILoRALinear)


def test_within_null_searches_everything() -> None:
    assert len(insert_adapters(Thinker(), config(within=None)).names) == 6


def test_root_takes_the_place_of_within_and_names_count_from_the_model() -> None:
    model = Thinker()
    report = insert_adapters(model, config(within="ignored"), root=model.audio_tower)
    assert report.names == ("audio_tower.layers.0.q_proj", "audio_tower.layers.0.k_proj")


def test_patterns_match_whole_name_parts_and_wildcards() -> None:
    assert len(insert_adapters(Thinker(), config(target_modules=["?_proj"])).names) == 4
    assert len(insert_adapters(Thinker(), config(target_modules=["layers.1.q_proj"])).names) == 1
    with pytest.raises(ValueError, match="'proj' matches no linear layer"):
        insert_adapters(Thinker(), config(target_modules=["proj"]))


def test_only_adapters_are_trainable() -> None:
    model = Thinker()
    insert_adapters(model, config())
    trainable = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"lora_A", "lora_B", "lora_route"}


def test_insertion_leaves_the_output_as_it_was_and_keeps_the_mode() -> None:
    model = Thinker().eval()
    x = torch.randn(2, 3, 8)
    before = model(x)
    insert_adapters(model, config(dropout=0.5))
    assert torch.equal(model(x), before)
    assert not model.language_model["layers"][0].q_proj.training


def test_report_counts_every_parameter() -> None:
    model = Thinker()
    base = sum(p.numel() for p in model.parameters())
    report = insert_adapters(model, config())
    q, k = report.groups
    # A (2, 8), B (out, 3 * 2), route (3, 2), in two layers each
    assert (q.pattern, q.count, q.in_features, q.out_features, q.parameters) == ("q_proj", 2, 8, 8, 140)
    assert (k.pattern, k.count, k.in_features, k.out_features, k.parameters) == ("k_proj", 2, 8, 4, 92)
    assert report.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad) == 232
    assert report.base_parameters == base


def test_table_says_what_where_and_how_many() -> None:
    console = Console(width=110)
    with console.capture() as capture:
        console.print(insert_adapters(Thinker(), config(dropout=0.1)).table())
    text = capture.get()
    assert "ilora: rank 2, alpha 32, dropout 0.1, heads 3, router latent" in text
    row = next(line for line in text.splitlines() if "k_proj" in line)
    for cell in ("k_proj", "language_model.layers.0.k_proj", " 2 ", " 8 ", " 4 ", " 92 "):
        assert cell in row
    assert "232" in text


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_layers() -> None:
    model = Thinker()
    with pytest.raises(ValueError, match=r"'gate_proj' matches no linear layer; .*k_proj, q_proj"):
        insert_adapters(model, config(target_modules=["q_proj", "gate_proj"]))
    assert not adapted(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_pattern_that_matches_another_kind_of_layer_says_so() -> None:
    with pytest.raises(ValueError, match=r"matches 2 other modules, such as .*norm' \(LayerNorm\)"):
        insert_adapters(Thinker(), config(target_modules=["norm"]))


def test_an_unknown_part_is_an_error_that_lists_the_parts() -> None:
    with pytest.raises(ValueError, match=r"no module of that name.*audio_tower, language_model, lm_head"):
        insert_adapters(Thinker(), config(within="decoder"))


def test_a_root_of_another_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a part of Thinker"):
        insert_adapters(Thinker(), config(), root=Block())


def test_adapters_are_not_put_on_adapters() -> None:
    model = Thinker()
    insert_adapters(model, config())
    with pytest.raises(ValueError, match=r"already has 4 adapters \(first: 'language_model"):
        insert_adapters(model, config())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "lorra"},
            rf"adapter.kind is 'lorra' \(did you mean 'lora'\?\); known: {', '.join(ADAPTERS)}",
        ),
        ({"router": "output"}, "adapter.router is 'output'; it must be one of latent, input"),
        ({"dtype": "int8"}, "adapter.dtype is 'int8'; it must be one of float32, bfloat16"),
        ({"rank": 0}, "adapter.rank is 0"),
        ({"rank": 2.5}, "adapter.rank is 2.5"),
        ({"heads": 0}, "adapter.heads is 0"),
        ({"alpha": 0}, "adapter.alpha is 0"),
        ({"alpha": float("nan")}, "adapter.alpha is nan"),
        ({"dropout": 1.0}, "adapter.dropout is 1.0"),
        ({"dropout": -0.1}, "adapter.dropout is -0.1"),
        ({"target_modules": []}, r"adapter.target_modules is \[\]"),
        ({"target_modules": "q_proj"}, "adapter.target_modules is 'q_proj'"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
