"""Media that nobody reads change no loss and no answer, and give every tower's trained weights a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.adapters import AdapterConfig
from crab_lightning.distributed.every_tower import with_unread
from crab_lightning.mini import make_tiny_llm_va, make_tiny_vllm_a
from crab_lightning.models import AVModule, LlmVaModule, OmniModule, VllmAModule
from crab_lightning.models.connectors import ConnectorConfig
from tests.distributed.sharded_fit import example

SMALL = {"hidden": 32, "layers": 1, "heads": 2, "ffn": 64}
PARADIGMS = ("omni", "llm_va", "vllm_a")


@pytest.fixture(scope="module")
def make(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AVModule]:
    def build(paradigm: str) -> AVModule:
        torch.manual_seed(0)
        shared: dict[str, Any] = {"dtype": "float32", "max_new_tokens": 4, "geometry": "plain"}
        folder = tmp_path_factory.mktemp(paradigm)
        module: AVModule
        if paradigm == "omni":
            module = OmniModule(str(tiny), adapter=AdapterConfig(rank=4, within=None), **shared)
        elif paradigm == "llm_va":
            parts = make_tiny_llm_va(folder)
            shared |= {"beats": parts / "beats", "connector": ConnectorConfig(queries=2, **SMALL)}
            names = {"pretrained": str(parts / "llm"), "vision": str(parts / "clip")}
            module = LlmVaModule(**names, adapter=AdapterConfig(rank=4), **shared)
        else:
            parts = make_tiny_vllm_a(folder)
            connector = ConnectorConfig(kind="window_qformer", queries=1, **SMALL)
            shared |= {"beats": parts / "beats", "connector": connector, "train_connectors": ["audio"]}
            module = VllmAModule(str(parts / "vllm"), adapter=AdapterConfig(rank=4), **shared)
        module.configure_model()
        return module.eval()

    return build


@pytest.mark.parametrize("heard", [True, False], ids=["sound", "words"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_unread_media_change_nothing(make: Callable[[str], AVModule], paradigm: str, heard: bool) -> None:
    module = make(paradigm)
    encode, collate = module.processor.encode, module.processor.collate
    kinds = "a" if heard else ""

    def examples(target: str | None) -> list[Any]:
        return [encode(example("long", "", target, 1)), encode(example("x", kinds, target))]

    batch, prompts = collate(examples("a dog barks")), collate(examples(None))
    missing = [kind for name, kind in module.unread_media().items() if name not in batch.inputs]
    assert len(missing) == len(module.unread_media()) - heard
    full = with_unread(batch, missing)
    assert full.inputs["input_ids"].shape[1] > batch.inputs["input_ids"].shape[1]
    (wanted, counts), (found, same) = module.losses(batch), module.losses(full)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(counts, same)
    found.sum().backward()
    beyond = {id(p) for p in module.parameters()} - {id(p) for p in module.decoder().parameters()}
    towers = [p for p in module.parameters() if id(p) in beyond and p.requires_grad]
    assert towers
    assert all(p.grad is not None for p in towers)
    if not heard:
        assert not any(bool(p.grad.any()) for p in towers if p.grad is not None)
    alone, together = (module.generate(b) for b in (prompts, with_unread(prompts, missing)))
    assert [replace(a, sample=b.sample) for a, b in zip(alone, together, strict=True)] == together
