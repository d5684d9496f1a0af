"""Heads dropped while a run is tested."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from crab_lightning.commands import main
from crab_lightning.studies.heads import DropHead, heads_of
from crab_lightning.studies.study import read_study
from tests.adapters.statement import make_layer


def test_dropping_a_head_equals_zeroing_its_matrix_bit_for_bit() -> None:
    torch.manual_seed(1)
    layer = make_layer()
    nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 5, 10)
    module: Any = SimpleNamespace(model=nn.ModuleDict({"q_proj": layer}))
    trainer: Any = None
    intact = layer(x)
    for head in range(3):
        drop = DropHead(head + 1)
        drop.on_test_start(trainer, module)
        dropped = layer(x)
        drop.on_test_end(trainer, module)
        before = layer.lora_B.data.clone()
        layer.lora_B.data[:, head * layer.rank : (head + 1) * layer.rank] = 0
        assert torch.equal(dropped, layer(x))
        layer.lora_B.data.copy_(before)
        assert torch.equal(layer(x), intact)
        assert not torch.equal(dropped, intact)
    assert heads_of(module.model) == 3
    with pytest.raises(ValueError, match="head 4: the run has heads 1 to 3"):
        DropHead(4).on_test_start(trainer, module)


def test_heads_tests_a_run_without_each_head(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = read_study(finished).folder / "cells"
    run = cells / "ilora.multi.seed0"
    assert main(["heads", str(run), "--out", str(tmp_path / "h"), "--only", "dfew"]) == 0
    said = capsys.readouterr().out
    assert "Δ drop head 3" in said
    assert {p.name for p in (tmp_path / "h").iterdir()} >= {"no-drop", "drop-head-1", "heads.md", "heads.csv"}
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "h").rglob("metrics.json")}
    words = ["heads", str(run), "--out", str(tmp_path / "h"), "--only", "dfew", "--reuse"]
    assert main(words) == 0
    assert "drop head 1: using the earlier test in" in capsys.readouterr().err
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    assert main([*words, "--modules", "*.layers.99.*"]) == 1
    said = capsys.readouterr().err
    assert "no layer with a router matches" in said
    assert "no drop: testing" not in said  # nothing was tested in vain
    assert main(["heads", str(cells / "lora.multi.seed0"), "--out", str(tmp_path / "l")]) == 1
    assert "of kind lora, which has no heads that can be left out" in capsys.readouterr().err
