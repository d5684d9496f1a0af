"""A base that is built empty and filled from its files is the base that the library loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

from crab_lightning.adapters import AdapterConfig, insert_adapters
from crab_lightning.adapters.insert import draw_adapters
from crab_lightning.distributed.shard_files import fill_shards, parameters_on_meta

CPU = torch.device("cpu")


def empty(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder)
    with parameters_on_meta():
        return Qwen2_5OmniThinkerForConditionalGeneration._from_config(
            getattr(config, "thinker_config", config)
        )


def test_filled_base_equals_the_loaded_one_in_weights_and_buffers(tiny: Path) -> None:
    model = empty(tiny)
    assert all(p.is_meta for p in model.parameters())
    insert_adapters(model, AdapterConfig(rank=4), root=model.get_decoder())
    torch.manual_seed(0)
    draw_adapters(model)
    adapters = {name: p.clone() for name, p in model.named_parameters() if "lora_" in name}
    assert adapters
    assert not any(p.is_meta for p in adapters.values())
    fill_shards(model, str(tiny), CPU)
    loaded: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32)
    drawn: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32)
    torch.manual_seed(0)
    insert_adapters(drawn, AdapterConfig(rank=4), root=drawn.get_decoder())
    found = {name.replace(".base.", "."): p for name, p in model.named_parameters()}
    for name, weight in loaded.named_parameters():
        assert torch.equal(found[name], weight), name
    buffers = dict(model.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    for name, weight in adapters.items():
        assert torch.equal(model.get_parameter(name), weight), "adapters are not touched"
        assert torch.equal(drawn.get_parameter(name), weight), "and drawn as one process does"


def test_missing_and_misshapen_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    (file,) = copy.glob("*.safetensors")
    state = load_file(file)
    name = next(name for name in state if name.endswith("lm_head.weight"))
    weight = state.pop(name)
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights of the thinker are missing: 1 .first: .'lm_head.weight'"):
        fill_shards(empty(tiny), str(copy), CPU)
    save_file(state | {name: weight[:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head.weight has the shape .* but the model has"):
        fill_shards(empty(tiny), str(copy), CPU)
    file.unlink()
    with pytest.raises(ValueError, match=r"no .safetensors file"):
        fill_shards(empty(tiny), str(copy), CPU)
