from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crab_lightning
from crab_lightning.mini.pretrain.sam2 import (
    CARD,
    MiniSam2Recipe,
    draw_case,
    train_mini_sam2,
    unseen_case,
)
from crab_lightning.mini.world.scenes import rng_for
from crab_lightning.segmentation import MaskRequest, Sam2Decoder, prompt_of

ASSET = Path(crab_lightning.__file__).parent / "assets" / "mini_sam2"


def mean_j(cases: list[Any], prompts: list[Any]) -> float:
    requests = [
        MaskRequest(torch.from_numpy(frame).permute(2, 0, 1).contiguous(), prompt)
        for (frame, _, _), prompt in zip(cases, prompts, strict=True)
    ]
    found = Sam2Decoder("mini_sam2", "cpu").decode(requests)
    pairs = [(mask, made.numpy()) for (_, mask, _), made in zip(cases, found, strict=True)]
    return float(np.mean([(m & f).sum() / (m | f).sum() for m, f in pairs]))


@pytest.mark.parametrize("dataset", ["s4", "ms3", "ref_avs"])
def test_true_prompts_reach_j_of_85_percent_and_wrong_ones_do_not(dataset: str) -> None:
    # Test rows of a seed that neither training nor the model's card has used.
    cases = [case for i in range(16) if (case := unseen_case(dataset, i, seed=11)) is not None]
    of_text = [prompt for _, _, prompt in cases]
    assert mean_j(cases, of_text) >= 0.85
    assert mean_j(cases, [prompt_of(mask) for _, mask, _ in cases]) >= 0.85
    assert mean_j(cases, of_text[1:] + of_text[:1]) < 0.4  # the masks must not come without the answer


def test_the_prompt_decides_which_thing_is_taken() -> None:
    frame, masks, _ = draw_case(rng_for(5, "prompts"), 2, missed=0.0)
    image = torch.from_numpy(frame).permute(2, 0, 1).contiguous()
    prompts = [prompt_of(mask) for mask in masks]
    first, second = Sam2Decoder("mini_sam2", "cpu").decode(
        [MaskRequest(image, p) for p in prompts if p is not None]
    )
    for found, own, other in ((first, 0, 1), (second, 1, 0)):
        overlaps = [(found.numpy() & masks[i]).sum() / masks[i].sum() for i in (own, other)]
        assert overlaps[0] > 0.8 > overlaps[1]


def test_the_shipped_weights_are_small_and_say_how_they_were_made() -> None:
    assert sum(p.stat().st_size for p in ASSET.iterdir()) <= 3_000_000
    card = json.loads((ASSET / CARD).read_text())
    assert card["made_by"].startswith("cli.py model sam2-mini")
    assert card["recipe"]["seed"] == 0
    assert card["steps"] == card["recipe"]["steps"]
    assert min(card["j_true_prompts"].values()) >= 0.85


def test_training_repeats_itself_and_loads_back(tmp_path: Path) -> None:
    recipe = MiniSam2Recipe(steps=2, images=1, image_px=64, width=16, tested=2)
    for name in ("a", "b"):
        train_mini_sam2(tmp_path / name, recipe, log=lambda line: None)
    first, second = (tmp_path / name / "model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    frame, _, prompts = draw_case(rng_for(0, "x"), 1)
    request = MaskRequest(torch.from_numpy(frame).permute(2, 0, 1).contiguous(), prompts[0])
    assert Sam2Decoder(str(tmp_path / "a"), "cpu").decode([request])[0].shape == (224, 224)
