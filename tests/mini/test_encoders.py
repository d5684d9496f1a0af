"""Tiny CLIP and BEATs can be taught the synthetic world."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from crab_lightning.commands import main
from crab_lightning.mini import TinyLlmVaConfig, make_tiny_llm_va, pretrain_encoders


def weights(folder: Path, part: str) -> dict[str, list[float]]:
    return {k: v.flatten().tolist() for k, v in load_file(folder / part / "model.safetensors").items()}


def test_teaching_moves_what_a_connector_reads_and_keeps_the_files(tmp_path: Path) -> None:
    folder = make_tiny_llm_va(tmp_path, config=TinyLlmVaConfig(vision_layers=3, patch_px=28))
    before = {part: weights(folder, part) for part in ("clip", "beats")}
    words = ["--folder", str(folder), "--vision-steps", "2", "--audio-steps", "2"]
    assert main(["model", "encoders", *words]) == 0
    for part, old in before.items():
        new = weights(folder, part)
        assert new.keys() == old.keys()
        assert any(new[name] != old[name] for name in old)
        unread = [name for name in old if ".layers.2." in name]
        assert all(new[name] == old[name] for name in unread)
        assert unread or part == "beats"


def test_other_patches_than_the_labels_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_llm_va(tmp_path)
    with pytest.raises(ValueError, match="patches of 32 px; labels are made for 28"):
        pretrain_encoders(folder, vision_steps=1, audio_steps=1)
