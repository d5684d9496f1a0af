"""Released weights go to this package's format and back, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from crab_lightning.adapters import (
    AdapterConfig,
    AdapterError,
    adapter_state_dict,
    insert_adapters,
    read_adapter_config,
    read_adapter_metadata,
)
from crab_lightning.adapters.names import portable_name
from crab_lightning.adapters.released import (
    check_released,
    convert_released,
    export_released,
    join_heads,
    open_released,
    split_heads,
)
from crab_lightning.adapters.released_table import ThinkerSizes, released_table

SIZES = ThinkerSizes(1, 8, 1, 6, 10, 2, 12, 12, 4, 14)
SETTINGS: dict[str, Any] = {"sizes": SIZES, "rank": 2, "heads": 3, "alpha": 4.0}


def weights(dtype: torch.dtype = torch.bfloat16, dead: str = "none") -> dict[str, Tensor]:
    """Return random weights under the released names; layers whose name holds ``dead`` have a zero B."""
    table = released_table(SIZES, rank=2)
    state = {name: torch.randn(shape).to(dtype) for name, shape in table.items()}
    return {n: torch.zeros_like(v) if "lora_B" in n and dead in n else v for n, v in state.items()}


def write(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def meta_table() -> dict[str, Tensor]:
    return {n: torch.empty(s, dtype=torch.bfloat16, device="meta") for n, s in released_table().items()}


def test_the_published_table_has_1940_names_and_its_size_in_bytes() -> None:
    state = meta_table()
    assert len(state) == 1940
    assert sum(v.numel() for v in state.values()) == 870_480_512
    assert sum(v.nbytes for v in state.values()) == 1_740_961_024
    towers = {"audio_tower.": 63_283_200, "visual.": 124_846_720, "model.layers.": 682_350_592}
    for tower, values in towers.items():
        assert sum(v.numel() for n, v in state.items() if n.startswith(f"base_model.model.{tower}")) == values


def test_the_whole_table_goes_there_and_back() -> None:
    state = meta_table()
    own = dict(join_heads(state))
    assert len(own) == 388 * 3
    assert sum(v.numel() for v in own.values()) == 870_480_512
    back = check_released(split_heads(own), released_table())
    assert {n: v.shape for n, v in back.items()} == {n: v.shape for n, v in state.items()}


def test_the_table_is_what_is_inserted_into_the_published_thinker() -> None:
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "depth": 32}
    config = Qwen2_5OmniThinkerConfig(vision_config=vision)
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config)
    adapter = AdapterConfig(rank=128, alpha=256.0, heads=3, router="input", within=None)
    assert insert_adapters(model, adapter).parameters == 870_480_512
    live = {portable_name(n): tuple(v.shape) for n, v in adapter_state_dict(model).items()}
    assert live == {n: tuple(v.shape) for n, v in join_heads(meta_table())}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_file_goes_there_and_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    state = weights(dtype)
    convert_released(write(tmp_path / "w.bin", state), tmp_path / "own", **SETTINGS)
    export_released(tmp_path / "own", tmp_path / "back.bin", sizes=SIZES)
    back = torch.load(tmp_path / "back.bin", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[n], v) and back[n].dtype == dtype for n, v in state.items())


def test_head_i_lies_in_its_columns(tmp_path: Path) -> None:
    state = weights()
    convert_released(write(tmp_path / "w.bin", state), tmp_path / "own", **SETTINGS)
    own = load_file(tmp_path / "own" / "adapter.safetensors")
    b = own["model.layers.1.mlp.down_proj.lora_B"]
    for i in range(3):
        head = state[f"base_model.model.model.layers.1.mlp.down_proj.lora_B{i}.weight"]
        assert torch.equal(b[:, 2 * i : 2 * i + 2], head)


def test_settings_that_the_file_lacks_are_stored(tmp_path: Path) -> None:
    convert_released(write(tmp_path / "w.bin", weights()), tmp_path / "own", **SETTINGS)
    config = read_adapter_config(tmp_path / "own")
    assert (config.kind, config.router, config.rank, config.alpha) == ("ilora", "input", 2, 4.0)
    assert (config.within, config.dtype, config.dropout) == (None, "bfloat16", 0.1)
    metadata = read_adapter_metadata(tmp_path / "own")
    assert (metadata["geometry"], metadata["paradigm"]) == ("released", "native")


def test_the_released_run_is_the_default() -> None:
    defaults = convert_released.__kwdefaults__
    assert (defaults["rank"], defaults["heads"], defaults["alpha"]) == (128, 3, 256.0)


@pytest.mark.parametrize("prefix", ["module.", "thinker.", "module.thinker."])
def test_prefixes_of_wrappers_are_stripped(tmp_path: Path, prefix: str) -> None:
    state = weights()
    path = write(tmp_path / "w.bin", {prefix + n: v for n, v in state.items()})
    convert_released(path, tmp_path / "own", **SETTINGS)
    assert load_file(tmp_path / "own" / "adapter.safetensors").keys() == dict(join_heads(state)).keys()


def test_missing_unknown_misshaped_and_doubled_names_are_listed_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    state = weights()
    first, second, third = list(state)[:3]
    state["module." + third] = state[third]
    state["base_model.model.lm_head.lora_A.weight"] = state.pop(first)
    state[second] = torch.zeros(3, 3)
    with pytest.raises(AdapterError) as error:
        convert_released(write(tmp_path / "w.bin", state), tmp_path / "own", **SETTINGS)
    text = str(error.value)
    assert f"1 missing: {first}" in text
    assert "1 unknown: base_model.model.lm_head.lora_A.weight" in text
    assert f"1 of another shape: {second}: (3, 3), must be (2, 8)" in text
    assert f"1 occur twice: {third}" in text
    assert not (tmp_path / "own").exists()


def test_another_rank_than_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"80 of another shape: .*must be \(4, 8\).*rank and heads"):
        convert_released(write(tmp_path / "w.bin", weights()), tmp_path / "o", **(SETTINGS | {"rank": 4}))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code of the file was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Harmful(), "not a file of weights that torch can read safely"),
        ([torch.zeros(1)], "is a list, not a flat dictionary"),
        ({"a": {"b": torch.zeros(1)}}, "is a dict, not a flat dictionary"),
    ],
)
def test_files_that_are_not_plain_weights_are_refused(
    tmp_path: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AdapterError, match=message):
        open_released(write(tmp_path / "w.bin", content))
    assert "code of the file" not in capsys.readouterr().out


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = weights()
    state["base_model.model.visual.blocks.0.mlp.up_proj.lora_B1.weight"][3, 1] = torch.nan
    with pytest.raises(AdapterError, match=r"not finite: visual\.blocks\.0\.mlp\.up_proj$"):
        convert_released(write(tmp_path / "w.bin", state), tmp_path / "own", **SETTINGS)


def test_zero_encoders_are_dropped_and_come_back_as_zeros(tmp_path: Path) -> None:
    state = {n: v if ".model.layers" in n or "lora_B" not in n else v * 0 for n, v in weights().items()}
    done = convert_released(write(tmp_path / "w.bin", state), tmp_path / "own", drop_zero=True, **SETTINGS)
    assert {layer.tower for layer in done.figures if layer.dead} == {"audio", "visual"}
    config = read_adapter_config(tmp_path / "own")
    assert config.within == "language_model"
    assert all(name.startswith("model.") for name in load_file(tmp_path / "own" / "adapter.safetensors"))
    _, empty = export_released(tmp_path / "own", tmp_path / "back.bin", sizes=SIZES)
    assert len(empty) == 6
    back = torch.load(tmp_path / "back.bin", weights_only=True)
    assert all(torch.equal(back[n], v) for n, v in state.items() if ".model.layers" in n)
    assert not any(v.any() for n, v in back.items() if ".model.layers" not in n)


def test_single_zero_layers_are_dropped_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "w.bin", weights(dead="model.layers.0.self_attn.k_proj"))
    done = convert_released(path, tmp_path / "own", drop_zero=True, **SETTINGS)
    config = read_adapter_config(tmp_path / "own")
    assert config.target_modules == list(done.kept)
    assert len(done.kept) == len(SIZES.layers()) - 1


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "w.bin", weights(dead="lora"))
    with pytest.raises(AdapterError, match="every B matrix is zero"):
        convert_released(path, tmp_path / "own", drop_zero=True, **SETTINGS)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "w.bin", weights())
    convert_released(path, tmp_path / "own", **SETTINGS)
    with pytest.raises(FileExistsError, match="already contains adapters"):
        convert_released(path, tmp_path / "own", **SETTINGS)
    with pytest.raises(FileExistsError, match=r"w\.bin already exists"):
        export_released(tmp_path / "own", path, sizes=SIZES)


def test_a_latent_router_has_no_released_form(tmp_path: Path) -> None:
    convert_released(write(tmp_path / "w.bin", weights()), tmp_path / "own", **SETTINGS)
    path = tmp_path / "own" / "adapter.json"
    description = json.loads(path.read_text())
    description["adapter"]["router"] = "latent"
    path.write_text(json.dumps(description))
    with pytest.raises(AdapterError, match="router 'latent'; a released file can contain only I-LoRA"):
        export_released(tmp_path / "own", tmp_path / "back.bin", sizes=SIZES)
