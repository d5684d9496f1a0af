"""The native module trains its adapters, and nothing else, and finds them again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from crab_lightning.adapters import AdapterConfig, ILoRALinear
from crab_lightning.builder.reasoning.local import LocalWriter
from crab_lightning.encoders import ClipVision
from crab_lightning.models import LlmVaModule, OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch
from tests.models.conftest import Build
from tests.processing.examples import video_example
from tests.quiet import quiet_trainer


def loader(*batches: Batch) -> DataLoader[Batch]:
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


def weights(module: OmniModule) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def test_fast_dev_run_through_the_trainer(
    build: Build, batch: Batch, prompts: list[Batch], tmp_path: Path
) -> None:
    module = build(max_new_tokens=2)
    runner = quiet_trainer(tmp_path, fast_dev_run=True)
    runner.fit(module, loader(batch), [loader(batch), loader(prompts[1])])
    assert runner.callback_metrics["val/loss"] > 0
    assert runner.callback_metrics["train/loss"] > 0
    runner.test(module, loader(prompts[1]), verbose=False)
    predicted = runner.predict(module, loader(prompts[1]))
    assert predicted is not None
    assert predicted[0]["predictions"][0].sample == prompts[1].samples[0]  # type: ignore[call-overload, index]


def test_training_moves_every_adapter_and_no_base_weight(build: Build, batch: Batch, tmp_path: Path) -> None:
    module = build(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    before = weights(module)
    # three steps: while B is zero only B gets a gradient
    quiet_trainer(tmp_path, max_steps=3).fit(module, loader(batch, batch, batch))
    trained = module.trainable_names()
    assert {n.rsplit(".", 1)[1] for n in trained} == {"lora_A", "lora_B", "lora_route"}
    for name, after in module.state_dict().items():
        assert torch.equal(after, before[name]) == (name not in trained), name


def test_training_lowers_the_loss(build: Build, batch: Batch, tmp_path: Path) -> None:
    module = build(optimizer=lambda p: torch.optim.AdamW(p, lr=5e-2))
    with torch.no_grad():
        before = module.losses(batch)[0].sum()
    quiet_trainer(tmp_path, max_steps=6).fit(module, loader(*[batch] * 6))
    with torch.no_grad():
        assert module.losses(batch)[0].sum() < 0.97 * before


def test_a_continued_run_keeps_its_optimizer_settings(build: Build, batch: Batch, tmp_path: Path) -> None:
    first = quiet_trainer(tmp_path, max_steps=1)
    first.fit(build(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2)), loader(batch))
    first.save_checkpoint(path := tmp_path / "last.ckpt")
    for lr, decay, said in (
        (1e-3, 0.01, r"lr is 0\.001, .* has 0\.01,"),
        (1e-2, 0.5, r"weight_decay is 0\.5,"),
    ):
        other = build(optimizer=lambda p, lr=lr, decay=decay: torch.optim.AdamW(p, lr=lr, weight_decay=decay))
        with pytest.raises(ValueError, match=rf"model\.optimizer: {said}.* with `load_adapter`"):
            quiet_trainer(tmp_path, max_steps=2).fit(other, loader(batch), ckpt_path=path, weights_only=True)
    same = build(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    quiet_trainer(tmp_path, max_steps=2).fit(same, loader(batch, batch), ckpt_path=path, weights_only=True)


def test_a_module_that_was_loaded_to_answer_trains_with_dropout(
    build: Build, batch: Batch, tmp_path: Path
) -> None:
    module = build(adapter=AdapterConfig(rank=4, dropout=0.5)).eval()
    modes = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            modes.append([m.training for m in module.modules() if isinstance(m, ILoRALinear)])

    quiet_trainer(tmp_path, max_steps=1, callbacks=[Seen()]).fit(module, loader(batch))
    assert modes
    assert all(modes[0])


def test_an_optimizer_that_is_no_function_is_refused(build: Build) -> None:
    with pytest.raises(TypeError, match=r"model\.optimizer is 'adam'; give a function of the parameters"):
        build(optimizer="adam")


def test_a_wrong_argument_is_named_with_those_that_exist() -> None:
    with pytest.raises(
        TypeError,
        match=r"^OmniModule has no argument 'adapters' \(did you mean 'adapter'\?\)\. Its arguments .*dtype",
    ):
        OmniModule("x", adapters=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^OmniModule: too many .* Give each argument but the first by its"):
        OmniModule("x", "y", "z", "w")  # type: ignore[call-arg, arg-type]


def test_a_test_without_an_evaluator_is_announced(build: Build, prompts: list[Batch], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no Evaluator, so the answers of this test are neither scored nor"):
        quiet_trainer(tmp_path).test(build(), loader(prompts[0]), verbose=False)


def test_without_adapters_every_weight_is_trained(build: Build, batch: Batch) -> None:
    module = build(adapter=None)
    loss_sum, tokens = module.losses(batch)
    (loss_sum.sum() / tokens.sum()).backward()
    still = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []


def test_frozen_base_stays_in_evaluation_mode(build: Build) -> None:
    module = build(adapter=AdapterConfig(rank=4, dropout=0.5))
    module.train()
    training = {type(m).__name__ for m in module.model.modules() if m.training}
    assert training <= {"ILoRALinear", "Linear", "Dropout"}
    assert any(m.training for m in module.model.modules() if isinstance(m, ILoRALinear))


def test_gradient_checkpointing_gives_the_same_gradients(build: Build, batch: Batch) -> None:
    gradients = []
    for checkpointing in (False, True):
        module = build(gradient_checkpointing=checkpointing)
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        module.decoder().layers[0].mlp.register_forward_pre_hook(count)  # type: ignore[union-attr, index]
        for name, parameter in module.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.constant_(parameter, 0.01)
        module.train()
        loss_sum, _ = module.losses(batch)
        loss_sum.sum().backward()
        assert calls == 1 + checkpointing  # recomputed once
        gradients.append({n: p.grad for n, p in module.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_optimizer_over_other_parameters_stops_the_run(build: Build, batch: Batch, tmp_path: Path) -> None:
    module = build(optimizer=lambda p: torch.optim.AdamW(list(p)[:3], lr=1e-3))
    with pytest.raises(RuntimeError, match=r"the optimizer has 3 parameters, .* would never change"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, loader(batch))


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"betas": (0.9, 2.0)}, {"learning_rate": 1e-3}])
def test_optimizer_that_refuses_its_settings_names_the_key(
    build: Build, batch: Batch, tmp_path: Path, settings: dict[str, Any]
) -> None:
    module = build(optimizer=lambda p: torch.optim.AdamW(p, **settings))
    with pytest.raises(ValueError, match=r"^model\.optimizer: the optimizer cannot be made: .+"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, loader(batch))


def test_model_is_loaded_once(build: Build) -> None:
    module = build()
    model = module.model
    module.configure_model()
    assert module.model is model


def test_processor_needs_no_weights(tiny: Path, tmp_path: Path) -> None:
    module = OmniModule(str(tiny), geometry="plain")
    assert module.processor.geometry == "plain"
    assert not hasattr(module, "model")


def disturb(module: OmniModule) -> OmniModule:
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return module


def test_saved_adapters_give_the_same_output(build: Build, batch: Batch, tmp_path: Path) -> None:
    module = disturb(build())
    module.save_adapter(tmp_path / "a")
    wanted = module.losses(batch)[0]
    fresh = build()
    assert not torch.allclose(fresh.losses(batch)[0], wanted, rtol=1e-3)
    # the folder says which adapters they are
    again = build(adapter=None, load_adapter=tmp_path / "a")
    assert torch.equal(again.losses(batch)[0], wanted)
    assert again.adapter is not None
    assert again.adapter.rank == 4


def test_adapters_of_another_geometry_are_refused(build: Build, tmp_path: Path) -> None:
    build(geometry="plain").save_adapter(tmp_path / "a")
    with pytest.raises(ValueError, match="geometry is 'plain' in the checkpoint, 'released' in the run"):
        build(load_adapter=tmp_path / "a")


def test_checkpoint_holds_trained_weights_alone_and_resumes(
    build: Build, batch: Batch, tmp_path: Path
) -> None:
    module = build(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    runner = quiet_trainer(tmp_path, max_steps=2, enable_checkpointing=True)
    runner.fit(module, loader(batch, batch))
    path = tmp_path / "last.ckpt"
    runner.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert stored.keys() == module.trainable_names()
    fresh = build(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    quiet_trainer(tmp_path, max_steps=3).fit(
        fresh, loader(batch, batch, batch), ckpt_path=path, weights_only=True
    )
    assert fresh.global_step == 3
    assert not torch.equal(fresh.losses(batch)[0], build().losses(batch)[0])
    loaded = OmniModule.load_from_checkpoint(path)
    assert torch.equal(loaded.losses(batch)[0], module.losses(batch)[0])
    assert loaded.adapter == module.adapter
    assert (loaded.dtype_name, loaded.max_new_tokens) == ("float32", 6)
    assert OmniModule.load_from_checkpoint(path, max_new_tokens=3).max_new_tokens == 3


def test_checkpoint_that_cannot_be_loaded_alone_names_the_right_call(
    build: Build, batch: Batch, tmp_path: Path
) -> None:
    runner = quiet_trainer(tmp_path, max_steps=1)
    module = build()
    runner.fit(module, loader(batch))
    path = tmp_path / "last.ckpt"
    runner.save_checkpoint(path)
    with pytest.raises(
        ValueError, match=r"is for the architecture 'native', but LlmVaModule has .*load_run on the run"
    ):
        LlmVaModule.load_from_checkpoint(path)
    old = torch.load(path, weights_only=True)
    del old["crab_lightning"]["init"]
    old["crab_lightning"]["paradigm"] = "OmniModule"  # as older versions wrote it
    torch.save(old, path)
    with pytest.raises(ValueError, match=r"Give them: OmniModule\.load_from_checkpoint\(path, pretrained="):
        OmniModule.load_from_checkpoint(path)
    given = {"pretrained": module.pretrained, "adapter": AdapterConfig(rank=4), "dtype": "float32"}
    loaded = OmniModule.load_from_checkpoint(path, **given)
    assert torch.equal(loaded.losses(batch)[0], module.losses(batch)[0])


class Own(OmniModule):
    """A user's subclass, with an argument of its own."""

    def __init__(self, *args: Any, scale: float = 1.0, **values: Any) -> None:
        super().__init__(*args, **values)
        self.scale = scale


def test_a_subclass_loads_adapters_and_checkpoints_of_its_parent_and_back(
    build: Build, tiny: Path, batch: Batch, tmp_path: Path
) -> None:
    module = build()
    module.save_adapter(tmp_path)
    assert json.loads((tmp_path / "adapter.json").read_text())["metadata"]["paradigm"] == "native"
    own = Own(str(tiny), load_adapter=tmp_path, dtype="float32", scale=2.0)
    own.configure_model()
    assert torch.equal(own.losses(batch)[0], module.losses(batch)[0])
    runner = quiet_trainer(tmp_path, max_steps=1)
    runner.fit(own, loader(batch))
    runner.save_checkpoint(tmp_path / "own.ckpt")
    again = Own.load_from_checkpoint(tmp_path / "own.ckpt")
    assert again.scale == 2.0
    assert torch.equal(own.losses(batch)[0], again.losses(batch)[0])
    written = json.loads((tmp_path / "adapter.json").read_text())
    written["metadata"]["paradigm"] = "OmniModule"  # as older versions wrote it
    (tmp_path / "adapter.json").write_text(json.dumps(written))
    old = Own(str(tiny), load_adapter=tmp_path, dtype="float32")
    old.configure_model()
    written["metadata"]["paradigm"] = "llm_va"
    (tmp_path / "adapter.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"paradigm is 'llm_va' in the checkpoint, 'native' in the run"):
        Own(str(tiny), load_adapter=tmp_path, dtype="float32").configure_model()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter": AdapterConfig(rank=8)}, r"trained with adapter\.rank 4, but this run has 8\."),
        ({"adapter": AdapterConfig(rank=4, target_modules=["q_proj"])}, r"weights, \d+ unknown: "),
        ({"geometry": "plain"}, "trained with geometry 'released', but this run has 'plain'"),
    ],
)
def test_checkpoint_of_another_run_is_refused(
    build: Build, batch: Batch, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    runner = quiet_trainer(tmp_path, max_steps=1)
    runner.fit(build(), loader(batch))
    path = tmp_path / "last.ckpt"
    runner.save_checkpoint(path)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path).test(build(**options), loader(batch), ckpt_path=path)


def test_full_omni_checkpoint_loads_as_its_thinker(
    build: Build, tiny: Path, batch: Batch, tmp_path: Path
) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    for file in tiny.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = {f"thinker.{k}": v for k, v in load_file(tiny / "model.safetensors").items()}
    tensors["talker.model.norm.weight"] = torch.ones(4)
    tensors["token2wav.x.weight"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"]}
    config["thinker_config"] = json.loads((tiny / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    full, thinker = build(pretrained=folder), build()
    assert torch.equal(full.losses(batch)[0], thinker.losses(batch)[0])
    assert full.processor.placeholders == thinker.processor.placeholders  # type: ignore[attr-defined]


def test_checkpoint_with_missing_weights_is_refused(build: Build, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "holes"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tiny / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights of .* thinker are missing .*layers\.1\.mlp\.up_proj"):
        build(pretrained=folder)


def test_random_weights_need_only_a_config(build: Build, tiny: Path, batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    module = build(pretrained=tmp_path, init="random")
    loss_sum, tokens = module.losses(batch)
    assert (loss_sum / tokens).mean().item() == pytest.approx(6.4, abs=0.8)  # about log(vocabulary)


def test_bfloat16_base_trains_float32_adapters(build: Build, batch: Batch) -> None:
    module = build(dtype="bfloat16")
    loss_sum, tokens = module.losses(batch)
    (loss_sum.sum() / tokens.sum()).backward()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    reference = build().losses(batch)[0]
    torch.testing.assert_close(loss_sum, reference, rtol=0.02, atol=0.1)


def test_time_scale_reaches_the_model(build: Build, tiny: Path) -> None:
    module = build()
    states = []
    for seconds in (2.0, 1.0):
        plain = NativeProcessor(tiny, "plain")
        example = replace(video_example(count=4, seconds=1.0), seconds_per_grid=[seconds])
        inputs = plain.collate([plain.encode(example)]).inputs
        states.append(module.model(**inputs).logits)
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_loss_by_dataset_reaches_the_logger(build: Build, batch: Batch, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    module = build()
    quiet_trainer(tmp_path, max_steps=2, log_every_n_steps=2, logger=logger).fit(module, loader(batch, batch))
    logger.save()
    head, row = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    logged = dict(zip(head.split(","), row.split(","), strict=True))
    wanted = {
        "train/loss",
        "train/event_localization/ave/loss",
        "train/event_localization/s4/loss",
        "train/tokens_per_s",
        "train/lr",
        "step",
    }
    assert wanted <= logged.keys()
    assert logged["step"] == "2"


def test_module_is_a_lightning_module_with_no_saved_arguments(build: Build) -> None:
    module = build()
    assert isinstance(module, LightningModule)
    assert not module.hparams  # a checkpoint's arguments would silently win over the run's config


@pytest.mark.parametrize("part", ["weights", "processor"])
def test_absent_checkpoint_is_named(tmp_path: Path, part: str) -> None:
    module = OmniModule(pretrained=str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"model\.pretrained .*absent"):
        module.configure_model() if part == "weights" else module.processor


@pytest.mark.parametrize("name", ["typo", "a/b/c", "./gone", "/gone/model", "../x"])
def test_a_name_that_can_be_no_checkpoint_is_refused_without_asking_a_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", None)
    with pytest.raises(FileNotFoundError, match=rf"model\.pretrained {name}: there is no such folder\. A"):
        OmniModule(name).configure_model()
    with pytest.raises(FileNotFoundError, match=rf"model\.visual_encoder {name}: there is no such folder"):
        _ = ClipVision(name).config
    with pytest.raises(ValueError, match=rf"--model {name} is neither a folder"):
        LocalWriter(name)
