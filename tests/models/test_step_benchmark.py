"""The step benchmark runs anywhere at the tiny size, and counts what it says."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

PATH = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.fixture(scope="module")
def step() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def test_tiny_step_is_timed_for_both_kinds(step: ModuleType) -> None:
    options = "--steps 1 --warmup 0 --batch 2 --tokens 16 --targets 4 --rank 4 --device cpu --peak-tflops 1"
    results = step.main(options.split())
    assert [r.adapter for r in results] == ["ilora", "lora"]
    assert results[0].trained_parameters > results[1].trained_parameters
    for one in results:
        assert one.tokens_per_s == pytest.approx(32 / one.step_s, rel=0.02)
        assert one.mfu > 0


def test_published_shape_has_the_published_number_of_weights(step: ModuleType, tmp_path: Path) -> None:
    step.write_config(tmp_path, "7b")
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration(AutoConfig.from_pretrained(tmp_path))
    assert (
        sum(p.numel() for p in model.get_decoder().parameters()) == 7_070_619_136
    )  # Qwen2.5-7B without its head
    assert sum(p.numel() for p in model.lm_head.parameters()) == 152_064 * 3584


def test_useful_flop_of_the_goal_is_that_of_its_arithmetic(step: ModuleType, tmp_path: Path) -> None:
    step.write_config(tmp_path, "7b")
    # all tokens supervised, as the 277 TFLOP of a 4 x 2048 batch are counted
    args = argparse.Namespace(
        rank=128,
        dropout=0.0,
        dtype="bfloat16",
        checkpointing=False,
        device="meta",
        batch=4,
        tokens=2048,
        targets=2048,
    )
    flop = step.useful_flop(step.build(tmp_path, "ilora", args), args)
    assert flop == pytest.approx(277e12, rel=0.01)
