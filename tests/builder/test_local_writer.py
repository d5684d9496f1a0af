"""Reasoning texts by a tiny Qwen2.5-Omni on this machine, through the code that loads a real one."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.builder.reasoning import LocalWriter, Settings, reason
from crab_lightning.builder.reasoning.work import Work
from crab_lightning.builder.reasoning.writers import RowRefused
from crab_lightning.commands import main
from crab_lightning.configuration.sections import tasks_and_datasets

ONE = Settings(tries=1, frames=2, size_px=56, discarded="direct")


@pytest.fixture(scope="module")
def writer(small: dict[str, Path]) -> LocalWriter:
    return LocalWriter(str(small["tiny"]), max_new_tokens=6, device="cpu")


@pytest.fixture
def root(small: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small["mini"], tmp_path / "root"))


def test_frames_and_sound_reach_the_model(writer: LocalWriter, root: Path) -> None:
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    work = Work(root, "avqa", datasets["avqa"], tasks["question_answering"], ONE, writer.settings)
    content = work.content(work.samples[0])
    messages = work.prompts.messages(content, "Right answer: two", "full", ("a text", "a reason"))
    inputs = writer._inputs(messages)
    processor: Any = writer.module.processor
    ids = inputs["input_ids"][0]
    assert len(inputs["image_grid_thw"]) == 2
    assert (
        int((ids == processor.placeholders.image).sum()) == int(inputs["image_grid_thw"].prod(1).sum()) // 4
    )
    assert int((ids == processor.placeholders.audio).sum()) > 100  # 25 a second
    text = processor.tokenizer.decode(ids)
    assert [role for role in re.findall(r"<\|im_start\|>(\w+)", text)] == [
        "system", "user", "assistant", "user", "assistant"
    ]  # fmt: skip
    reply = writer.write(messages)
    assert writer.write(messages) == reply
    assert reply.prompt_tokens == len(ids)
    assert 1 <= reply.completion_tokens <= 6
    drawn = LocalWriter(writer.pretrained, 6, temperature=2.0, device="cpu")
    assert drawn.write(messages) == drawn.write(messages)  # the seed is made from the row
    messages[1]["content"][-1]["text"] += "<|im_end|>"
    with pytest.raises(RowRefused, match=r"reserved token '<\|im_end\|>'"):
        writer.write(messages)


def test_a_model_that_knows_nothing_keeps_no_text_and_is_not_asked_twice(
    writer: LocalWriter, root: Path
) -> None:
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    (report,) = reason(root, tasks, datasets, writer, ONE)
    assert report.kept == {}
    assert report.discarded.total() == report.rows > 0
    again = LocalWriter(writer.pretrained, max_new_tokens=6, device="cpu")
    (report,) = reason(root, tasks, datasets, again, ONE)
    assert report.asked == 0
    assert "module" not in vars(again)  # no weights were loaded


def test_a_right_text_is_kept(small: dict[str, Path], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LocalWriter(str(small["tiny"]), device="cpu")
    told: list[str] = []
    prepare = writer._inputs

    def prepared(messages: Any) -> Any:
        told.append(re.findall(r"The right answer is: (.*)", messages[1]["content"][-1]["text"])[-1])
        return prepare(messages)

    def generate(**inputs: Any) -> torch.Tensor:
        text = f"Something moves here, and it is heard at the same time, too. {told[-1]}"
        ids = torch.tensor([writer.module.processor.answer_tokens(text)])
        return torch.cat([inputs["input_ids"], ids], 1)

    monkeypatch.setattr(writer, "_inputs", prepared)
    monkeypatch.setattr(writer.module.model, "generate", generate)
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    (report,) = reason(root, tasks, datasets, writer, ONE)
    assert report.kept == {"full": report.rows}
    rows = json.loads((root / "AVUIE_2/avqa/train.json").read_text())
    assert all(row["label"].startswith("Something moves here") for row in rows)


def test_the_command_loads_a_local_model_and_merges_without_any(
    small: dict[str, Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["build", "reason", "--root", str(root), "--datasets", "avqa", "--model", str(small["tiny"])]
    words += ["--max-new-tokens", "4", "--tries", "1", "--frames", "1", "--size-px", "56"]
    monkeypatch.setitem(sys.modules, "openai", None)  # as where the package is not installed
    for shard in ("1/2", "2/2"):
        assert main([*words, "--local", "--device", "cpu", "--discarded", "direct", "--shard", shard]) == 0
    assert main([*words, "--dry-run"]) == 0
    assert main([*words, "--discarded", "direct", "--merge"]) == 0
    assert "wrote" in capsys.readouterr().out
    assert main([*words, "--endpoint", "http://127.0.0.1:9/v1"]) == 1
    assert "crab_lightning[endpoint]" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "--local" in capsys.readouterr().err


def test_another_kind_of_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a llama; --local loads qwen2_5_omni, qwen2_5_omni_thinker"):
        LocalWriter(str(tmp_path))
    with pytest.raises(ValueError, match="is neither a folder with a model nor a name on the hub"):
        LocalWriter(str(tmp_path / "absent"))
