"""The plan's counts of the composite paradigms against their real modules."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from crab_lightning.models.connectors import Connector, ConnectorConfig
from crab_lightning.planning.composite_shape import measure_llm_va, measure_vllm_a
from crab_lightning.planning.shape import ConnectorShape
from tests.distributed.sharded_fit import CASES, SIZES, build, write_checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(folder)
    return folder


@pytest.mark.parametrize("name", ["llm_va", "llm_va_visual", "vllm_a", "vllm_a_audio"])
def test_counts_are_those_of_the_real_model(name: str, checkpoints: Path) -> None:
    case = CASES[name]
    module = build(checkpoints, case)
    module.configure_model()
    folder = checkpoints / case.paradigm
    kind = "qformer" if case.paradigm == "llm_va" else "window_qformer"
    init = SimpleNamespace(
        pretrained=folder / ("llm" if case.paradigm == "llm_va" else "vllm"),
        vision=folder / "clip",
        beats=folder / "beats",
        connector={"kind": kind, **SIZES},
        train_connectors=case.options.get("train_connectors", []),
    )
    measure = measure_llm_va if case.paradigm == "llm_va" else measure_vllm_a
    shape = measure(init, module.adapter, type(module))
    parameters = list(module.parameters())
    assert shape.adapters == sum(p.numel() for p in parameters if p.requires_grad)
    assert shape.base + shape.adapters == sum(p.numel() for p in parameters)
    assert shape.layers == len(module.decoder().layers)
    assert len(shape.connectors) == len(init.train_connectors)
    assert not shape.trains_towers
    if case.paradigm == "llm_va":  # two tokens of a second of sound, where the native model has 25
        assert shape.sample_tokens == (725 - 23 * 10, 1350 - 23 * 20)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("groups", "queries", "layers"), [(10, 32, 2), (6, 8, 3)])
def test_trained_connector_keeps_what_the_formula_says(
    groups: int, queries: int, layers: int, dropout: float
) -> None:
    config = ConnectorConfig("qformer", queries, 192, layers, 4, 768, dropout)
    connector = Connector(config, 256, 320).train()
    known = {p.untyped_storage().data_ptr() for p in connector.parameters()}
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in known:
            found[place] = tensor  # held, so that no place is used twice
        return tensor

    features: Any = torch.randn(groups, 100, 256).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        connector(features)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    shape = ConnectorShape(config, encoder_width=256, encoder_tokens=groups * 100, groups=groups, width=320)
    assert shape.kept_bytes == pytest.approx(kept, rel=0.08)
