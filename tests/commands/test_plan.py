from __future__ import annotations

import pytest

from crab_lightning.commands import main

OMNI = ["plan", "--config", "omni.yaml"]


def test_recipe_is_planned_without_network_or_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OMNI, "--devices", "8", "--memory", "80"]) == 0
    text = capsys.readouterr().out
    assert "published sizes of Qwen/Qwen2.5-Omni-7B: 8.93 B weights, 679 M trained" in text
    assert "strategy ddp" in text
    assert "It fits" in text
    assert "5 epochs of 222,000 samples" in text


def test_run_that_does_not_fit_is_told_what_to_turn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OMNI, "--devices", "8", "--memory", "24", "--trainer.accumulate_grad_batches=2"]) == 0
    text = capsys.readouterr().out
    assert "2 in a step" in text
    assert "It does not fit" in text
    assert "--trainer.strategy fsdp2: " in text
    assert "--data.batch_size 2 and trainer.accumulate_grad_batches 4: " in text


def test_changes_that_fit_together_are_shown_where_none_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OMNI, "--memory", "24"]) == 0
    text = capsys.readouterr().out
    assert "These fit together, with 15.8 GB:" in text
    shown = [line for line in text.splitlines() if "--model.init_args.adapter.rank 16 " in line]
    assert main([*OMNI, "--memory", "24", *shown[0].split()]) == 0
    assert "It fits" in capsys.readouterr().out
    assert main([*OMNI, "--memory", "1"]) == 0
    assert "None of these settings is enough" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("vllm_a.yaml", "Qwen/Qwen2.5-VL-7B-Instruct: 8.42 B weights, 679 M trained"),
        ("llm_va_llama2.yaml", "meta-llama/Llama-2-7b-chat-hf: 7.13 B weights, 747 M trained"),
        ("stage1_visual.yaml", "meta-llama/Llama-2-7b-chat-hf: 7.17 B weights, 40 M trained"),
    ],
)
def test_other_paradigms_are_planned_in_both_stages(
    config: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--config", config, "--devices", "8", "--memory", "80"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert said in text
    assert "It fits" in text
    assert ("use values of AV-UIE v2" in text) is ("stage1" in config)


def test_other_strategies_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OMNI, "--trainer.strategy=deepspeed"]) == 1
    assert "plan knows: auto, ddp, fsdp2" in capsys.readouterr().err


def test_small_model_is_counted_in_millions_and_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "demo.yaml"]) == 0
    text = capsys.readouterr().out
    assert " M weights, " in text
    assert " minutes, evaluation left out" in text
    assert "0.00 B" not in text
