"""Every registered kind of adapter does what a kind has to do; a new one is tested by being registered."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from torch import nn

from crab_lightning.adapters import (
    ADAPTERS,
    AdapterConfig,
    LoRALinear,
    announce_batch,
    read_adapter_config,
    record_routes,
)
from crab_lightning.adapters.insert import draw_adapters
from crab_lightning.adapters.kinds import all_keys, load_installed_kinds, register_adapter
from crab_lightning.commands import main
from crab_lightning.inference.loading import load_run
from crab_lightning.models import OmniModule
from crab_lightning.structures import Batch
from tests.adapters.test_insert import Thinker
from tests.distributed.sharded_fit import of_kind
from tests.models.conftest import Build

load_installed_kinds()
KINDS = sorted(ADAPTERS)


def weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the adapters' own weights, whatever they are called."""
    layers = [layer for layer in module.modules() if isinstance(layer, LoRALinear)]
    return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]


def filled(module: OmniModule, seed: int = 1) -> OmniModule:
    """Give the adapters weights that change something."""
    torch.manual_seed(seed)
    for parameter in weights(module):
        nn.init.normal_(parameter, std=0.1)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_adapters_change_nothing_and_training_moves_them_alone(
    kind: str, build: Build, batch: Batch
) -> None:
    module = build(adapter=of_kind(kind)).train()
    bare = build(adapter=AdapterConfig(kind="lora", rank=1))
    module.announce(batch)
    with torch.no_grad():
        assert torch.equal(module.losses(batch)[0], bare.losses(batch)[0])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # A has no gradient before B has moved
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    own = {id(parameter) for parameter in weights(module) if parameter.requires_grad}
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in own), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_its_first_value_again_when_a_sharded_model_is_filled(kind: str) -> None:
    with torch.device("meta"):
        layer = ADAPTERS[kind](nn.Linear(6, 8), of_kind(kind))
    draw_adapters(layer)
    for parameter in layer.parameters(recurse=False):
        assert parameter.isfinite().all()


def test_a_parameter_that_would_begin_with_any_value_is_refused() -> None:
    class Forgetful(LoRALinear):
        def add_parameters(self) -> None:
            self.gains = self._parameter(self.out_features)

    with torch.device("meta"):
        layer = Forgetful(nn.Linear(6, 8), AdapterConfig(kind="lora"))
    with pytest.raises(ValueError, match=r"Forgetful\.reset_parameters gives gains no value"):
        draw_adapters(layer)


def test_a_buffer_and_a_frozen_parameter_get_their_first_values_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Masked(LoRALinear):
        filled = True
        mask: torch.Tensor

        def add_parameters(self) -> None:
            self.lora_A.requires_grad_(False)
            mask = torch.empty(self.rank, device=self.base.weight.device)
            self.register_buffer("mask", mask, persistent=False)

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if self.filled:
                self.mask.fill_(2.0)

    with torch.device("meta"):
        layer, forgetful = (Masked(nn.Linear(6, 8), AdapterConfig(kind="lora")) for _ in range(2))
    draw_adapters(layer)
    assert layer.mask.tolist() == [2.0] * layer.rank
    assert [p.requires_grad for p in layer.parameters(recurse=False)] == [False, True]
    assert layer.lora_A.isfinite().all()
    monkeypatch.setattr(Masked, "reset_parameters", lambda self: self.lora_A.copy_(self.base.weight[:1]))
    with pytest.raises(ValueError, match=r"Masked\.reset_parameters reads weights that a sharded model"):
        draw_adapters(Masked(nn.Linear(6, 8, device="meta"), AdapterConfig(kind="lora")))
    monkeypatch.undo()
    Masked.filled = False
    with pytest.raises(ValueError, match=r"Masked\.reset_parameters gives mask no value"):
        draw_adapters(forgetful)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_adapters_answer_and_learn_the_same_and_can_be_inspected(
    kind: str,
    build: Build,
    batch: Batch,
    prompts: list[Batch],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = filled(build(adapter=of_kind(kind)))
    module.save_adapter(tmp_path)
    again = build(adapter=None, load_adapter=tmp_path)
    assert again.adapter == module.adapter
    assert [p.text for p in module.generate(prompts[0])] == [p.text for p in again.generate(prompts[0])]
    losses = [m.validation_step(batch, 0)["loss_sum"] for m in (module, again)]
    assert torch.equal(*losses)
    assert (losses[0] - build(adapter=of_kind(kind)).validation_step(batch, 0)["loss_sum"]).abs().max() > 1e-3
    assert main(["adapter", "inspect", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == kind
    assert shown["towers"]["language"]["parameters"] == sum(p.numel() for p in weights(module))
    assert shown["towers"]["language"]["dead"] == []


def test_a_checkpoint_is_used_with_the_settings_that_it_was_trained_with(build: Build) -> None:
    module = build(adapter=AdapterConfig(kind="moka", rank=4))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    build(adapter=AdapterConfig(kind="moka", rank=4, dropout=0.1)).on_load_checkpoint(checkpoint)
    for changed, said in (
        ({"kind": "lora"}, r"trained with adapter\.kind 'moka', but this run has 'lora'"),
        ({"alpha": 8.0}, r"trained with adapter\.alpha 32\.0, but this run has 8\.0"),
        ({"mixing": 0.9}, r"trained with adapter\.mixing 0\.5, but this run has 0\.9"),
    ):
        other = AdapterConfig(**{"kind": "moka", "rank": 4} | changed)
        with pytest.raises(ValueError, match=said):
            build(adapter=other).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_a_batch_are_answered_as_each_alone(kind: str, build: Build, prompts: list[Batch]) -> None:
    module = filled(build(adapter=of_kind(kind)))
    together = [p.text for p in module.generate(prompts[0])]
    assert together == [module.generate(alone)[0].text for alone in prompts[1:]]


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind: str, build: Build, batch: Batch) -> None:
    gradients = []
    for checkpointing in (False, True):
        module = filled(build(adapter=of_kind(kind), gradient_checkpointing=checkpointing)).train()
        module.training_step(batch, 0).backward()
        gradients.append([p.grad for p in module.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_routes_are_shown_where_a_kind_routes(kind: str, build: Build, prompts: list[Batch]) -> None:
    module = filled(build(adapter=of_kind(kind)))
    if not any(m.routed for m in module.modules() if isinstance(m, LoRALinear)):
        with pytest.raises(ValueError, match="no layer with a router"), record_routes(module):
            pass
        return
    with record_routes(module) as found:
        module.generate(prompts[1])
    for calls in found.values():
        assert calls[0].shape[:2] == prompts[1].inputs["input_ids"].shape
        torch.testing.assert_close(calls[0].sum(-1), torch.ones(calls[0].shape[:2]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_planned_trained_tested_and_asked(
    kind: str, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [f"--model.init_args.adapter.kind={kind}", f"--model.init_args.pretrained={small['tiny']}"]
    assert main(["plan", "--config", "demo.yaml", *model]) == 0
    run = tmp_path / "run"
    words = ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1", "--trainer.limit_val_batches=1"]
    words += [f"--data.root={small['mini']}", "--only=ave", f"--run.folder={run}", "--data.num_workers=0"]
    words += ["--data.val_generate_per_dataset=0", "--model.init_args.max_new_tokens=3"]
    assert main(["fit", "--config", "demo.yaml", *model, *words]) == 0
    assert main(["test", "--ckpt_path", str(run), "--trainer.limit_test_batches=1"]) == 0
    capsys.readouterr()
    video = next((small["mini"] / "AVUIE_2").rglob("*.mp4"))
    assert main(["ask", "--checkpoint", str(run), "--video", str(video), "--task", "ave", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "event_localization"


def test_a_key_that_the_kind_does_not_read_is_refused_unless_it_has_its_default() -> None:
    with pytest.raises(ValueError, match=r"adapter\.heads is for kind .*adapter\.kind is 'lora', which"):
        AdapterConfig(kind="lora", heads=7)
    with pytest.raises(ValueError, match=r"adapter\.router is for kind ilora; adapter\.kind is 'moka'"):
        AdapterConfig(kind="moka", router="input")
    with pytest.raises(
        TypeError, match=r"there is no adapter\.head \(did you mean 'heads'\?\); known: kind, rank"
    ):
        AdapterConfig(head=7)
    every = {key.name: key.default for key in all_keys().values() if key.default is not MISSING}
    for kind in KINDS:
        assert AdapterConfig(**(every | {"kind": kind})) == AdapterConfig(kind=kind)


def test_a_folder_that_holds_the_keys_of_all_kinds_still_loads(tmp_path: Path, build: Build) -> None:
    build(adapter=AdapterConfig(kind="lora", rank=4)).save_adapter(tmp_path)
    written = json.loads((tmp_path / "adapter.json").read_text())
    written["adapter"] |= {"heads": 5, "router": "input", "tasks": None, "head_scale": None}
    (tmp_path / "adapter.json").write_text(json.dumps(written))
    assert read_adapter_config(tmp_path) == AdapterConfig(kind="lora", rank=4)


def test_a_run_config_that_lists_the_keys_of_all_kinds_still_loads(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [f"--model.init_args.pretrained={small['tiny']}", f"--data.root={small['mini']}", "--only=ave"]
    words += [
        "--trainer.max_steps=1",
        f"--run.folder={run}",
        "--data.num_workers=0",
        "--trainer.callbacks=null",
    ]
    assert main(["fit", "--config", "demo.yaml", "--model.init_args.adapter.kind=lora", *words]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    adapter = config["model"]["init_args"]["adapter"]
    assert "heads" not in adapter
    adapter |= {
        "heads": 5,
        "router": "input",
        "tasks": None,
        "head_scale": None,
    }  # as older versions wrote it
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    model, _ = load_run(run, device="cpu")
    assert model.adapter == AdapterConfig(kind="lora", rank=32, alpha=64.0)
    assert main(["validate", "--ckpt_path", str(run), "--trainer.limit_val_batches=1"]) == 0
    # A kind of a package that is not installed here is refused with the file that names it.
    adapter["kind"] = "scaled"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=rf"^{run}/config\.yaml: adapter\.kind is 'scaled'; known:"):
        load_run(run, device="cpu")
    capsys.readouterr()
    for words in (
        ["test", "--ckpt_path", str(run)],
        ["fit", "--config", str(run / "config.yaml")],
        ["heads", str(run)],
    ):
        with suppress(SystemExit):
            assert main(words) == 1
        assert f"error: {run}/config.yaml: " in (said := capsys.readouterr().err)
        assert "adapter.kind is 'scaled'" in said


def test_a_kind_that_would_be_lost_when_it_is_saved_or_loaded_is_refused() -> None:
    @dataclass
    class Config(AdapterConfig):
        decisive = ("kind", "rank", "alpha", "tims")
        kind: Literal["lossy"] = "lossy"  # type: ignore[assignment]
        times: int = 2

    class Layer(LoRALinear):
        config_class = Config

    def refused(config: type[AdapterConfig], message: str) -> None:
        Layer.config_class = config
        with pytest.raises(ValueError, match=message):
            register_adapter(Layer)

    refused(Config, r"Config\.decisive names 'tims' \(did you mean 'times'\?\)")
    refused(type("Bare", (Config,), {"other": 1}), r"Bare is not a dataclass, so its keys would be lost")
    refused(dataclass(type("Same", (Config,), {})), r"Same does not name its kind; write")
    refused(
        LoRALinear.config_class, r"'lora' is already taken by .*\.LoRALinear\. Give .*Layer a config_class"
    )
    assert "lossy" not in ADAPTERS

    class Hidden(LoRALinear):
        def add_parameters(self) -> None:
            self.norm = nn.LayerNorm(self.rank)

    class Drawn(LoRALinear):
        def add_parameters(self) -> None:
            self.register_buffer("fixed", torch.randn(3))

    for layer, name in ((Hidden, "norm.weight"), (Drawn, "fixed")):
        with pytest.raises(
            ValueError, match=rf"{layer.__name__}\.{name} would not be saved with the adapters"
        ):
            layer(nn.Linear(6, 8), AdapterConfig(kind="lora"))


def test_a_name_or_a_default_that_is_taken_is_refused() -> None:
    class Other(LoRALinear):
        pass

    with pytest.raises(ValueError, match=r"adapter kind 'lora' is already taken by crab_.*LoRALinear"):
        register_adapter(Other)

    @dataclass
    class OtherConfig(AdapterConfig):
        decisive = (*AdapterConfig.decisive, "heads")
        kind: Literal["other"] = "other"  # type: ignore[assignment]
        heads: int = 9

    Other.config_class = OtherConfig
    with pytest.raises(ValueError, match="default of heads is 9; another kind has 3"):
        register_adapter(Other)
    assert "other" not in ADAPTERS


def test_a_config_can_be_changed_and_written_out() -> None:
    for kind in KINDS:
        made = of_kind(kind)
        assert replace(made, rank=9).rank == 9
        assert set(asdict(made)) == {key.name for key in fields(made)}
        assert type(made) is ADAPTERS[kind].config_class


def test_a_batch_can_be_announced_to_adapters_only() -> None:
    with pytest.raises(ValueError, match="Thinker has no adapters to announce a batch to"):
        announce_batch(Thinker())


def test_adapters_on_another_base_model_are_named(build: Build, tmp_path: Path) -> None:
    module = build(adapter=AdapterConfig(rank=4))
    checkpoint = {"state_dict": module.state_dict()}
    module.save_adapter(tmp_path / "adapter")
    module.on_save_checkpoint(checkpoint)
    other = tmp_path / "other"
    other.symlink_to(module.base_name)
    moved = tmp_path / "elsewhere" / Path(module.base_name).name
    moved.parent.mkdir()
    moved.symlink_to(module.base_name)
    said = f"trained on the base model {module.base_name}, but model.pretrained is {other}"
    with pytest.warns(UserWarning, match=said):
        build(adapter=AdapterConfig(rank=4), pretrained=other).on_load_checkpoint(checkpoint)
    with pytest.warns(UserWarning, match=said):
        build(adapter=None, load_adapter=tmp_path / "adapter", pretrained=other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(adapter=AdapterConfig(rank=4), pretrained=moved).on_load_checkpoint(checkpoint)
