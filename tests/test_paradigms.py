"""One data section for three paradigms: only the model changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from crab_lightning.adapters import ADAPTERS, AdapterConfig
from crab_lightning.commands import main
from crab_lightning.data import AVDataModule, CaptionDataModule, CaptionSource
from crab_lightning.evaluation import Evaluator
from crab_lightning.mini import TinyLlmVaConfig, make_tiny_llm_va, make_tiny_native, make_tiny_vllm_a
from crab_lightning.models import AVModule, LlmVaModule, OmniModule, VllmAModule
from crab_lightning.models.connectors import ConnectorConfig
from crab_lightning.runs import RunCheckpoint
from tests.data.world import DATASETS, SIZE_PX, TASKS, write_root
from tests.quiet import quiet_trainer

SEGMENTS = ConnectorConfig(queries=2, hidden=16, heads=2, ffn=24)
WINDOWS = ConnectorConfig(kind="window_qformer", queries=1, hidden=16, heads=2, ffn=24)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root, and a tiny checkpoint of each paradigm."""
    folder = tmp_path_factory.mktemp("paradigms")
    write_root(folder / "root")
    make_tiny_native(folder / "native")
    make_tiny_llm_va(folder / "llm_va", config=TinyLlmVaConfig(image_px=SIZE_PX, patch_px=14))
    make_tiny_vllm_a(folder / "vllm_a")
    return folder


def module(paradigm: str, world: Path, stage: int = 2, **options: Any) -> AVModule:
    torch.manual_seed(0)
    folder = world / paradigm
    full: dict[str, Any] = {"dtype": "float32", "geometry": "plain", "max_new_tokens": 3}
    full |= {"adapter": AdapterConfig(rank=2) if stage == 2 else None} | options
    if paradigm == "native":
        return OmniModule(str(folder), **full)
    full["beats"] = str(folder / "beats")
    if paradigm == "llm_va":
        return LlmVaModule(str(folder / "llm"), vision=str(folder / "clip"), connector=SEGMENTS, **full)
    return VllmAModule(str(folder / "vllm"), connector=WINDOWS, **full)


def trainer(out: Path, *callbacks: Any, **options: Any) -> lightning.Trainer:
    return quiet_trainer(
        out,
        callbacks=list(callbacks),
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        **({"max_steps": 2, "limit_val_batches": 1, "limit_test_batches": 1} | options),
    )


def stage_1(paradigm: str, modality: str, world: Path, out: Path) -> Path:
    """Pre-train one connector for a step on captions and return its file."""
    files = sorted((world / "root" / "source").glob("*.wav" if modality == "audio" else "*.jpg"))
    if modality == "audio":
        rows = [f'{{"audio": "{f.name}", "caption": "a hum"}}\n' for f in files]
        text, kind = "".join(rows), "audio_captions"
    else:
        says = '[{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "noise"}]'
        text = "[" + ",".join(f'{{"image": "{f.name}", "conversations": {says}}}' for f in files) + "]"
        kind = "video_llava"
    (out / f"{modality}.json").write_text(text)
    source = CaptionSource(
        str(out / f"{modality}.json"),
        kind,  # type: ignore[arg-type]
        media="source",
        size_px=SIZE_PX,
    )
    data = CaptionDataModule(world / "root", {"captions": source}, batch_size=2, geometry="plain")
    model = module(paradigm, world, stage=1, train_connectors=[modality])
    model.configure_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    save = RunCheckpoint(monitor=None)
    trainer(out / modality, Evaluator(), save, max_steps=1, limit_train_batches=1).fit(model, data)
    moved = {name.split(".")[1] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"{modality}_connector"}
    found = [p.name for p in (out / modality / "adapter").iterdir()]
    assert found == [f"{modality}_connector.safetensors"]
    return out / modality / "adapter" / found[0]


@pytest.mark.parametrize("paradigm", ["native", "llm_va", "vllm_a"])
def test_paradigm_is_trained_saved_and_tested_on_the_same_data(
    paradigm: str, world: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {}
    if paradigm != "native":
        options["audio_connector"] = stage_1(paradigm, "audio", world, tmp_path)
    if paradigm == "llm_va":
        options["visual_connector"] = stage_1(paradigm, "visual", world, tmp_path)
    names = ("ks", "a2v", "s4")
    data = AVDataModule(
        world / "root",
        TASKS,
        {name: DATASETS[name] for name in names},
        batch_size=2,
        eval_batch_size=2,
        val_share=0.2,
        geometry="plain",
    )
    model = module(paradigm, world, **options)
    model.configure_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    run = trainer(tmp_path / "run", Evaluator(), RunCheckpoint(monitor=None))
    run.fit(model, data)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= model.trainable_names()
    expected = {"adapter.json", "adapter.safetensors"}
    if paradigm == "llm_va":
        expected |= {"audio_connector.safetensors", "visual_connector.safetensors"}
    assert {p.name for p in (tmp_path / "run" / "adapter").iterdir()} == expected
    run.test(model, data, verbose=False)

    again = module(
        paradigm, world, **options | {"adapter": None, "load_adapter": tmp_path / "run" / "adapter"}
    )
    again.configure_model()
    kept = dict(again.named_parameters())
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())

    resumed = module(paradigm, world, **options)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    trainer(tmp_path / "again", Evaluator()).test(
        resumed, data, ckpt_path=checkpoint, weights_only=True, verbose=False
    )
    kept = dict(resumed.named_parameters())
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())


KINDS = tuple(sorted(ADAPTERS))
CONFIGS = {"native": "demo.yaml", "llm_va": "demo_llm_va_llama3.yaml", "vllm_a": "demo_vllm_a.yaml"}
EACH_ONCE = [(list(CONFIGS)[i % len(CONFIGS)], kind) for i, kind in enumerate(KINDS)]  # every kind once
OTHERS = [(paradigm, kind) for paradigm in CONFIGS for kind in KINDS if (paradigm, kind) not in EACH_ONCE]


def runs_of(pairs: list[tuple[str, str]], small: dict[str, Path], out: Path) -> list[Path]:
    """Train an epoch of Mini AV-UIE and test, with one data config, each pair of paradigm and adapter."""
    made = {"native": make_tiny_native(out / "native")}
    made["llm_va"] = make_tiny_llm_va(out / "llm_va", config=TinyLlmVaConfig(patch_px=56))
    made["vllm_a"] = make_tiny_vllm_a(out / "vllm_a")
    words: dict[str, dict[str, object]] = {
        "native": {"pretrained": made["native"]},
        "llm_va": {
            "pretrained": made["llm_va"] / "llm",
            "vision": made["llm_va"] / "clip",
            "beats": made["llm_va"] / "beats",
            "visual_connector": "null",
            "audio_connector": "null",
        },
        "vllm_a": {
            "pretrained": made["vllm_a"] / "vllm",
            "beats": made["vllm_a"] / "beats",
            "audio_connector": "null",
            "train_connectors": "[audio]",  # no stage 1 here
        },
    }
    common = ["--only=ks,ave", f"--data.root={small['mini']}", "--data.num_workers=0"]
    common += ["--data.val_generate_per_dataset=0", "--trainer.max_epochs=1"]
    common += ["--model.init_args.max_new_tokens=4", "--model.init_args.adapter.rank=4"]
    runs = []
    for paradigm, kind in pairs:
        own = [f"--model.init_args.{key}={value}" for key, value in words[paradigm].items()]
        runs.append(out / f"{paradigm}_{kind}")
        own += [f"--model.init_args.adapter.kind={kind}", f"--run.folder={runs[-1]}"]
        assert main(["fit", "--config", CONFIGS[paradigm], *common, *own]) == 0
        assert json.loads((runs[-1] / "adapter/adapter.json").read_text())["adapter"]["kind"] == kind
        assert main(["test", "--ckpt_path", str(runs[-1])]) == 0
    return runs


def assert_comparable(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", *map(str, runs), "--format", "csv", "--resamples", "100"]) == 0
    head, *rows = [line for line in capsys.readouterr().out.splitlines() if line]
    assert all(run.name in head for run in runs)
    assert any(row.startswith("ave,segment_accuracy") for row in rows)
    assert any("accuracy" in row and not row.startswith("ave") for row in rows)


def test_one_data_config_serves_each_paradigm_and_each_kind_of_adapter(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_comparable(runs_of(EACH_ONCE, small, tmp_path), capsys)


@pytest.mark.slow
def test_every_other_pair_of_paradigm_and_adapter_does_too(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_comparable(runs_of(OTHERS, small, tmp_path), capsys)
