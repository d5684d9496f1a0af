"""A checkpoint made without a hub is a complete Qwen2.5-Omni folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from crab_lightning.mini import TinyNativeConfig, make_tiny_native, train_tokenizer
from crab_lightning.mini.checkpoints.tokenizer import SPECIAL_TOKENS
from tests.models.conftest import Build


def test_tokenizer_gives_any_text_back() -> None:
    tokenizer = train_tokenizer(["a dog barks"], 300)
    for text in ("a dog barks", "日本 été\n\n\ttabs  ", "<answer>(10,224)</answer>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_split_one_by_one() -> None:
    tokenizer = train_tokenizer(["2024 2024 2024 (123,123)"] * 50, 600)
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]


def test_special_tokens_follow_each_other_in_the_published_order() -> None:
    tokenizer = train_tokenizer(["a"], 600)
    ids = [tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert ids[-1] == len(tokenizer) - 1


def test_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 200; at least 266"):
        train_tokenizer(["a"], 200)


def test_vocabulary_stays_within_its_bound() -> None:
    words = [f"word{i} other{i * 7}" for i in range(3000)]
    assert len(train_tokenizer(words, 700)) <= 700


def test_same_seed_gives_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    again = make_tiny_native(tmp_path / "again")
    first, second = (load_file(f / "model.safetensors") for f in (tiny, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_sizes_are_those_asked_for(tmp_path: Path) -> None:
    sizes = TinyNativeConfig(
        hidden=192,
        layers=5,
        heads=4,
        vision_hidden=96,
        vision_layers=4,
        audio_hidden=96,
        audio_layers=3,
        vocab=1500,
        positions_per_s=2,
    )
    folder = make_tiny_native(tmp_path / "t", config=sizes, texts=[f"word{i}" for i in range(2000)])
    config = AutoConfig.from_pretrained(folder)
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (192, 5)
    assert (config.vision_config.depth, config.audio_config.encoder_layers) == (4, 3)
    assert sum(config.text_config.rope_parameters["mrope_section"]) == 24
    assert config.position_id_per_seconds == 2


def test_existing_checkpoint_is_not_overwritten(tiny: Path) -> None:
    with pytest.raises(FileExistsError, match="already holds a checkpoint"):
        make_tiny_native(tiny)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ({"vision_hidden": 90}, "vision_hidden is 90; it must be a multiple of 16"),
        ({"heads": 0}, "heads is 0; it must be positive"),
        ({"layers": -1}, "layers is -1; it must be positive"),
        ({"rope_theta": float("nan")}, "rope_theta is nan; it must be positive"),
    ],
)
def test_sizes_that_make_no_model_are_refused(size: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TinyNativeConfig(**size)


def test_default_checkpoint_is_small(build: Build, tiny: Path) -> None:
    weights = sum(p.numel() for p in build(adapter=None).parameters())
    assert 1_000_000 < weights < 5_000_000
