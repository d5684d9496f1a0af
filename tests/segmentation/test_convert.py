from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.segmentation.convert import (
    VARIANTS,
    convert_checkpoint,
    convert_names,
    fill_model,
    find_variant,
    variant_config,
)
from tests.segmentation.conftest import small_video_config


def official_shapes(monkeypatch: pytest.MonkeyPatch, letter: str) -> dict[str, Any]:
    """The official code's state dict without its values."""
    pytest.importorskip("sam2.build_sam", reason="the sam2 package is an extra")
    from hydra import compose
    from hydra.utils import instantiate

    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *a, **k: linspace(*a, **{**k, "device": "cpu"}))
    settings = compose(config_name=f"configs/sam2.1/sam2.1_hiera_{letter}.yaml")
    with torch.device("meta"):
        state: dict[str, Any] = instantiate(settings.model, _recursive_=True).state_dict()
    return state


@pytest.mark.parametrize(
    ("name", "letter"), [("tiny", "t"), ("small", "s"), ("base-plus", "b+"), ("large", "l")]
)
def test_every_official_tensor_has_its_place(name: str, letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Sam2VideoModel

    state = official_shapes(monkeypatch, letter)
    assert find_variant(state) == name
    with torch.device("meta"):
        wanted = Sam2VideoModel(variant_config(name)).state_dict()
        found = convert_names(state)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}


def test_sizes_are_those_of_the_official_configs() -> None:
    assert list(VARIANTS) == ["tiny", "small", "base-plus", "large"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("sam_mask_decoder.iou_token.weight"),
            "1 missing: mask_decoder.iou_token.weight",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (
            lambda s: s.update(no_mem_embed=torch.zeros(1, 1, 8)),
            "1 of another shape: no_memory",
        ),
        (
            lambda s: s.pop("sam_prompt_encoder.point_embeddings.2.weight"),
            r"contains the point embeddings \[0, 1, 3\], but SAM2 has 0 to 3",
        ),
    ],
)
def test_a_tensor_too_many_or_too_few_is_an_error(official: Path, change: Any, message: str) -> None:
    from transformers import Sam2VideoModel

    state = dict(torch.load(official, weights_only=True)["model"])
    change(state)
    with pytest.raises(ValueError, match=message):
        fill_model(Sam2VideoModel(small_video_config()), state)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, official: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no SAM2 checkpoint at"):
        convert_checkpoint(tmp_path / "nowhere.pt", tmp_path / "out")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="contains no entry 'model'"):
        convert_checkpoint(tmp_path / "other.pt", tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"trunk of width 16 with 6 blocks; official SAM2\.1 checkpoints have .*: tiny"
    ):
        convert_checkpoint(official, tmp_path / "out")
    (tmp_path / "photo.pt").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    (tmp_path / "cut.pt").write_bytes(official.read_bytes()[:2000])
    (tmp_path / "empty.pt").touch()
    for name in ("photo.pt", "cut.pt", "empty.pt"):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be read as tensors .*official SAM2\.1 \.pt file"
        ):
            convert_checkpoint(tmp_path / name, tmp_path / "out")
    torch.save({"model": Harm()}, tmp_path / "harm.pt")
    for protocol in range(6):
        (tmp_path / f"harm{protocol}.pt").write_bytes(pickle.dumps(Harm(), protocol))
    for path in sorted(tmp_path.glob("harm*.pt")):
        with pytest.raises(
            ValueError, match=rf"{path.name} is refused: .*would load \w+\.system, .*any code"
        ):
            convert_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
