"""Captions from a tiny Qwen2-Audio with random weights, through the real loading path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from crab_lightning.captioners import Qwen2AudioCaptioner
from crab_lightning.commands import main
from crab_lightning.mini import train_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2_audio")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(["a dog barks"], 300).backend_tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    torch.manual_seed(3)
    model = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(
            audio_config={
                "d_model": 16,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
            },
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "initializer_range": 0.5,  # so that it hears a difference
            },
            audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer).save_pretrained(folder)
    return folder


def test_answers_to_a_group_are_those_to_each_alone(tiny: Path, sounds: Path) -> None:
    captioner = Qwen2AudioCaptioner(str(tiny), max_new_tokens=8, device="cpu")
    paths = sorted((sounds / "clips").iterdir())
    together = captioner.describe(paths)
    assert together == [captioner.describe([path])[0] for path in paths]
    assert len(set(map(str, together))) > 1


def test_the_command_writes_the_same_file_in_one_call_and_in_two(tiny: Path, sounds: Path) -> None:
    out = sounds / "captions.jsonl"
    words = ["data", "caption", "--audio", str(sounds / "clips"), "--out", str(out), "--captioner", str(tiny)]
    words += ["--max-new-tokens", "8", "--batch-size", "2", "--device", "cpu"]
    assert main([*words, "--limit", "3"]) == 0
    assert len(out.read_text().splitlines()) == 3
    assert main(words) == 0
    in_two = out.read_bytes()
    out.unlink()
    assert main(words) == 0
    assert out.read_bytes() == in_two
    rows = [json.loads(line) for line in in_two.splitlines()]
    assert [row["audio"] for row in rows] == [f"clips/recording-{i}_0.000.wav" for i in range(5)]


def test_a_broken_sound_leaves_the_rest_of_its_group(tiny: Path, sounds: Path) -> None:
    paths = sorted((sounds / "clips").iterdir())
    whole = Qwen2AudioCaptioner(str(tiny), max_new_tokens=4, device="cpu").describe(paths)
    paths[1].write_bytes(b"no sound")
    broken = Qwen2AudioCaptioner(str(tiny), max_new_tokens=4, device="cpu").describe(paths)
    assert paths[1].name in str(broken[1])
    assert isinstance(broken[1], ValueError)
    assert [*broken[:1], *broken[2:]] == [*whole[:1], *whole[2:]]


def test_another_kind_of_model_is_refused(
    small: dict[str, Path], sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "caption", "--audio", str(sounds), "--out", str(sounds / "c.jsonl"), "--captioner"]
    assert main([*words, str(small["tiny"])]) == 1
    assert "is a qwen2_5_omni_thinker; it must be Qwen2-Audio or Qwen3-Omni" in capsys.readouterr().err
    assert main([*words, str(sounds / "absent")]) == 1
    assert "or the address of an endpoint" in capsys.readouterr().err
