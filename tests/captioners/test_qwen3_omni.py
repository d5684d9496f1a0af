"""Captions from a tiny Qwen3-Omni with random weights, through the real loading path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crab_lightning.captioners import local_captioner
from crab_lightning.captioners.base import heard
from crab_lightning.mini import make_tiny_qwen3_omni


@pytest.mark.parametrize("prompt", ["Describe this audio in one sentence.", ""])
@torch.no_grad()
def test_answers_to_a_group_are_those_to_each_alone(prompt: str, sounds: Path, tmp_path: Path) -> None:
    folder = make_tiny_qwen3_omni(tmp_path / "tiny")
    captioner = local_captioner(str(folder), prompt, 6, 8, "cpu")
    for weight in captioner.model.get_decoder().parameters():
        weight.mul_(4)  # so that it hears a difference
    paths = sorted((sounds / "clips").iterdir())[:3]
    together = captioner.describe(paths)
    assert together == [captioner.describe([path])[0] for path in paths]
    waves = [heard(path).numpy() for path in paths]
    text = captioner.processor.audio_token
    inputs = captioner.inputs(text, waves)
    for row, wave in enumerate(waves):
        stock = captioner.processor(text=[text], audio=[wave], sampling_rate=16_000, return_tensors="pt")
        count = stock["input_ids"].shape[1]
        assert torch.equal(inputs["input_ids"][row, -count:], stock["input_ids"][0])
        assert int(inputs["attention_mask"][row].sum()) == count
        frames = int(inputs["feature_attention_mask"][row].sum())
        assert torch.equal(inputs["input_features"][row, :, :frames], stock["input_features"][0])
