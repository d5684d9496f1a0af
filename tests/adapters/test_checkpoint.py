from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from crab_lightning.adapters import (
    ADAPTERS,
    AdapterConfig,
    AdapterError,
    adapter_state_dict,
    insert_adapters,
    load_adapter_state_dict,
    load_adapters,
    read_adapter_config,
    read_adapter_metadata,
    save_adapters,
)
from tests.adapters.test_insert import Thinker, config

METADATA = {"base_model": "Qwen/Qwen2.5-Omni-7B", "geometry": {"name": "released", "size_px": 224}}


def trained(seed: int = 0, **settings: object) -> Thinker:
    """Return a model whose base is always the same and whose adapters depend on the seed."""
    torch.manual_seed(99)
    model = Thinker()
    insert_adapters(model, config(**settings))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("router", ["latent", "input"])
def test_saved_and_loaded_adapters_give_the_same_output(tmp_path: Path, router: str) -> None:
    model, other = trained(1, router=router), trained(2, router=router)
    x = torch.randn(2, 3, 8)
    assert not torch.equal(model(x), other(x))
    save_adapters(model, tmp_path / "a" / "b", METADATA)
    assert load_adapters(other, tmp_path / "a" / "b", expect=METADATA) == METADATA
    assert torch.equal(model(x), other(x))


def test_only_adapters_are_saved_and_the_description_is_readable(tmp_path: Path) -> None:
    model = trained(dropout=0.05)
    save_adapters(model, tmp_path, METADATA)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    weights = load_file(tmp_path / "adapter.safetensors")
    assert weights.keys() == adapter_state_dict(model).keys()
    assert {name.rpartition(".")[2] for name in weights} == {"lora_A", "lora_B", "lora_route"}
    description = json.loads((tmp_path / "adapter.json").read_text())
    for key, value in {"kind": "ilora", "rank": 2, "alpha": 32.0, "heads": 3, "router": "latent"}.items():
        assert description["adapter"][key] == value
    assert description["adapter"]["target_modules"] == ["q_proj", "k_proj"]
    assert description["metadata"] == METADATA
    assert read_adapter_metadata(tmp_path) == METADATA


def test_the_saved_configuration_inserts_the_same_adapters(tmp_path: Path) -> None:
    model = trained(kind="ilora", router="input", dropout=0.2)
    save_adapters(model, tmp_path, {})
    again = Thinker()
    insert_adapters(again, read_adapter_config(tmp_path))
    load_adapters(again, tmp_path)
    assert read_adapter_config(tmp_path) == config(router="input", dropout=0.2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(adapter_state_dict(model).values(), adapter_state_dict(again).values(), strict=True)
    )


def test_weights_are_cast_to_the_type_of_the_layer(tmp_path: Path) -> None:
    save_adapters(trained(), tmp_path, {})
    model = trained(5).bfloat16()
    load_adapters(model, tmp_path)
    assert {v.dtype for v in adapter_state_dict(model).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        (
            {"geometry": {"name": "plain"}},
            r"geometry\.name is 'released' in the checkpoint, 'plain' in the run",
        ),
        ({"geometry": "released"}, r"geometry is \{'name'.* in the checkpoint, 'released' in the run"),
        (
            {"base_model": "other"},
            "base_model is 'Qwen/Qwen2.5-Omni-7B' in the checkpoint, 'other' in the run",
        ),
        ({"frames": 10}, "frames is not recorded in the checkpoint, and is 10 in the run"),
    ],
)
def test_another_geometry_or_base_is_refused_with_the_value_that_differs(
    tmp_path: Path, expect: dict[str, object], message: str
) -> None:
    save_adapters(trained(1), tmp_path, METADATA)
    model = trained(2)
    before = {k: v.clone() for k, v in adapter_state_dict(model).items()}
    with pytest.raises(AdapterError, match=message):
        load_adapters(model, tmp_path, expect=expect)
    assert all(torch.equal(v, before[k]) for k, v in adapter_state_dict(model).items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 64.0}, r"adapter\.alpha is 32\.0 in the checkpoint, 64\.0 in the model"),
        ({"router": "input"}, r"adapter\.router is 'latent' in the checkpoint, 'input' in the model"),
        ({"kind": "lora"}, r"adapter\.kind is 'ilora' in the checkpoint, 'lora' in the model"),
        ({"heads": 4}, r"adapter\.heads is 3 in the checkpoint, 4 in the model"),
        ({"rank": 3}, r"adapter\.rank is 2 in the checkpoint, 3 in the model"),
    ],
)
def test_settings_that_change_what_weights_compute_must_agree(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    save_adapters(trained(), tmp_path, {})
    with pytest.raises(AdapterError, match=message):
        load_adapters(trained(**settings), tmp_path)


def test_dropout_may_differ_because_it_acts_in_training_only(tmp_path: Path) -> None:
    save_adapters(trained(dropout=0.1), tmp_path, {})
    load_adapters(trained(dropout=0.0), tmp_path)


def test_missing_unexpected_and_misshaped_weights_are_named_and_nothing_is_copied() -> None:
    model = trained()
    before = {k: v.clone() for k, v in adapter_state_dict(model).items()}
    state = {k: v + 1 for k, v in before.items()}
    state.pop("language_model.layers.0.q_proj.lora_A")
    state["language_model.layers.7.q_proj.lora_A"] = torch.zeros(2, 8)
    state["language_model.layers.1.k_proj.lora_B"] = torch.zeros(4, 9)
    with pytest.raises(AdapterError) as error:
        load_adapter_state_dict(model, state)
    text = str(error.value)
    assert "1 missing: language_model.layers.0.q_proj.lora_A" in text
    assert "1 unknown: language_model.layers.7.q_proj.lora_A" in text
    assert "language_model.layers.1.k_proj.lora_B: (4, 9), must be (4, 6)" in text
    assert all(torch.equal(v, before[k]) for k, v in adapter_state_dict(model).items())


def test_other_targets_show_as_missing_and_unexpected_names(tmp_path: Path) -> None:
    save_adapters(trained(), tmp_path, {})
    with pytest.raises(AdapterError, match=r"6 unknown: .*k_proj"):
        load_adapters(trained(target_modules=["q_proj"]), tmp_path)


def test_a_save_killed_between_its_two_files_is_a_whole_one(tmp_path: Path) -> None:
    save_adapters(trained(1), tmp_path / "old", {"step": 1})
    save_adapters(trained(2), tmp_path / "new", {"step": 2})
    (tmp_path / "new" / "adapter.safetensors").replace(tmp_path / "old" / "adapter.safetensors")
    model = trained()
    assert load_adapters(model, tmp_path / "old") == {"step": 2}
    assert read_adapter_metadata(tmp_path / "old") == {"step": 2}
    wanted = adapter_state_dict(trained(2))
    assert all(torch.equal(value, wanted[name]) for name, value in adapter_state_dict(model).items())


def test_files_of_two_saves_are_not_read_as_one(tmp_path: Path) -> None:
    save_adapters(trained(1), tmp_path, {})
    state = load_file(tmp_path / "adapter.safetensors")
    save_file(
        state, tmp_path / "adapter.safetensors", metadata={"save_id": "another"}
    )  # of an earlier version
    with pytest.raises(AdapterError, match="A save was interrupted, or files of two"):
        load_adapters(trained(), tmp_path)


def test_a_failed_save_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    save_adapters(trained(1), tmp_path, METADATA)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_adapters(trained(2), tmp_path, {"geometry": object()})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_write_that_breaks_off_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("crab_lightning.adapters.checkpoint.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save_adapters(trained(), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: (f / "adapter.json").unlink(), r"contains no adapter\.json"),
        (lambda f: (f / "adapter.safetensors").unlink(), "is missing beside adapter.json"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"x" * 40), "cannot be read"),
        (lambda f: (f / "adapter.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "adapter.json").write_text("[]"), "format is 'list'"),
        (
            lambda f: (f / "adapter.json").write_text('{"format": 9}'),
            "format is 9; this version reads format 1",
        ),
        (lambda f: (f / "adapter.json").write_text('{"format": 1}'), "has no key 'save_id'"),
        (
            lambda f: (f / "adapter.json").write_text('{"format": 1, "save_id": "x", "adapter": 3}'),
            "adapter is 3; it must be an object with keys",
        ),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, edit: object, message: str) -> None:
    save_adapters(trained(), tmp_path, {})
    edit(tmp_path)  # type: ignore[operator]
    with pytest.raises(AdapterError, match=message):
        load_adapters(trained(), tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "kind",
            "lorra",
            rf"adapter.kind is 'lorra' \(did you mean 'lora'\?\); known: {', '.join(ADAPTERS)}",
        ),
        ("rank", 0, "adapter.rank is 0"),
        ("ranks", 2, "adapter has unknown keys ranks"),
    ],
)
def test_unknown_settings_in_a_description_are_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    save_adapters(trained(), tmp_path, {})
    path = tmp_path / "adapter.json"
    description = json.loads(path.read_text())
    description["adapter"][key] = value
    path.write_text(json.dumps(description))
    with pytest.raises(AdapterError, match=message):
        read_adapter_config(tmp_path)


def test_a_model_without_adapters_is_told_to_insert_them(tmp_path: Path) -> None:
    for call in (
        lambda: adapter_state_dict(Thinker()),
        lambda: load_adapter_state_dict(Thinker(), {}),
        lambda: save_adapters(Thinker(), tmp_path, {}),
    ):
        with pytest.raises(AdapterError, match="has no adapters; call insert_adapters first"):
            call()


def test_adapters_of_two_configurations_cannot_be_saved_as_one(tmp_path: Path) -> None:
    model = trained()
    model.language_model["layers"][0].q_proj.config = AdapterConfig(rank=2, alpha=1.0)
    with pytest.raises(AdapterError, match="2 different configurations"):
        save_adapters(model, tmp_path, {})


class Towers(nn.Module):
    """A language model and an encoder below ``model``, under the names of one transformers version."""

    def __init__(self, language: str, visual: str) -> None:
        super().__init__()
        for name in (language, visual):
            parent, _, last = name.rpartition(".")
            if parent and not hasattr(self, parent):
                setattr(self, parent, nn.Module())
            setattr(self.get_submodule(parent), last, nn.Module())
        for name, part in ((language, "layers"), (visual, "blocks")):
            setattr(self.get_submodule(name), part, nn.ModuleList([nn.Module()]))
            self.get_submodule(name).get_submodule(f"{part}.0").q_proj = nn.Linear(8, 6)


NEW, OLD = ("model.language_model", "model.visual"), ("model", "visual")


@pytest.mark.parametrize(("saved", "loaded"), [(NEW, OLD), (OLD, NEW)])
def test_adapters_load_under_the_names_of_another_transformers_version(
    tmp_path: Path, saved: tuple[str, str], loaded: tuple[str, str]
) -> None:
    states = []
    for names in (saved, loaded):
        model = Towers(*names)
        insert_adapters(model, AdapterConfig(rank=2, target_modules=["q_proj"], within=None))
        for parameter in adapter_state_dict(model).values():
            nn.init.normal_(parameter)
        states.append(adapter_state_dict(model))
        if names == saved:
            save_adapters(model, tmp_path, {})
    load_adapters(model, tmp_path)
    assert {n.rpartition(".")[0] for n in load_file(tmp_path / "adapter.safetensors")} == {
        "model.layers.0.q_proj",
        "visual.blocks.0.q_proj",
    }
    for name, value in states[0].items():
        other = name.replace(saved[0], loaded[0]) if "layers" in name else name.replace(saved[1], loaded[1])
        assert torch.equal(states[1][other], value)


def test_a_layer_can_be_targeted_by_the_name_it_has_in_a_file() -> None:
    model = Towers(*NEW)
    report = insert_adapters(model, AdapterConfig(target_modules=["model.layers.0.q_proj"], within=None))
    assert report.names == ("model.language_model.layers.0.q_proj",)


def test_adapters_saved_under_live_names_are_still_read(tmp_path: Path) -> None:
    model = Towers(*NEW)
    insert_adapters(model, AdapterConfig(rank=2, target_modules=["q_proj"], within=None))
    save_adapters(model, tmp_path, {})
    state = {n: v + 1 for n, v in adapter_state_dict(model).items()}
    save_id = json.loads((tmp_path / "adapter.json").read_text())["save_id"]
    save_file(state, tmp_path / "adapter.safetensors", metadata={"save_id": save_id})
    load_adapters(model, tmp_path)
    assert all(torch.equal(v, state[n]) for n, v in adapter_state_dict(model).items())
