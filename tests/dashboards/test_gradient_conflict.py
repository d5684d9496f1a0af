"""Cosines between the gradients of datasets, and training that does not notice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crab_lightning.adapters import AdapterConfig
from crab_lightning.adapters.kinds.lora import LoRALinear
from crab_lightning.commands import main
from crab_lightning.dashboards.gradient_conflict import (
    Conflict,
    GradientConflict,
    _chosen_layers,
    _compared,
    measured,
)
from crab_lightning.runs.folder_callback import RunFolder
from tests.adapters.statement import make_layer


def test_planted_gradients_give_their_cosines(tmp_path: Path) -> None:
    layer = make_layer(heads=2)
    a, b, route = (torch.zeros_like(w) for w in (layer.lora_A, layer.lora_B, layer.lora_route))
    a[0, 0], route[0, 0] = 2.0, 1.0
    b[0, 0], b[0, layer.rank] = 1.0, 1.0  # one value in each head
    turned = b.clone()
    turned[0, layer.rank] = -3.0  # the second head is pulled the other way
    aside = torch.zeros_like(a)
    aside[0, 1] = 5.0
    rows = [[a, b, route], [5 * a, turned, route], [aside, b, torch.zeros_like(route)]]
    found = _compared(("x", "y", "z"), [("model.layers.7.q_proj", layer)], rows, 3)
    at = dict(zip(found.parts, found.cosines, strict=True))
    assert list(at) == ["A", "B1", "B2", "router"]
    assert at["A"][0].tolist() == [1.0, 1.0, 0.0]
    assert at["B1"].tolist() == [[1.0] * 3] * 3
    assert at["B2"][1].tolist() == [-1.0, 1.0, -1.0]
    assert np.isnan(at["router"][0, 2])
    assert found.norms[0].tolist() == [2.0, 10.0, 5.0]
    assert found.depths.tolist() == [7] * 4
    assert found.mean("B")[0, 1] == 0.0  # one head agrees, the other does not
    assert found.mean("router")[0].tolist()[:2] == [1.0, 1.0]
    assert np.isnan(found.mean("A", depths=[3])).all()
    found.save(tmp_path / "conflict/step.npz")
    again = Conflict.load(tmp_path / "conflict/step.npz")
    assert (again.step, again.datasets, again.parts) == (3, found.datasets, found.parts)
    assert np.allclose(again.cosines, found.cosines, equal_nan=True)


def test_cosines_that_are_not_a_number_do_not_count_in_the_mean() -> None:
    cosines = np.array([[[1.0, np.nan], [np.nan, 1.0]], [[1.0, -0.5], [-0.5, np.nan]]])
    found = Conflict(0, ["a", "b"], ["x", "y"], [0, 1], ["A", "A"], cosines, np.ones((2, 2)))
    assert found.mean().tolist() == [[1.0, -0.5], [-0.5, 1.0]]


def test_files_are_in_the_run_folder_with_any_logger(tmp_path: Path) -> None:
    trainer = SimpleNamespace(
        callbacks=[RunFolder(tmp_path)], log_dir="elsewhere", default_root_dir="elsewhere"
    )
    callback = GradientConflict()
    callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert callback._folder == tmp_path


def test_numbers_that_make_no_sense_are_refused() -> None:
    for options in ({"samples": 0}, {"every_n_steps": 0}, {"at_steps": [-1]}):
        with pytest.raises(ValueError, match=r"must be at least 1|must be at least 0"):
            GradientConflict(**options)  # type: ignore[arg-type]


def test_training_is_bit_equal_with_and_without_it(tmp_path: Path, small: dict[str, Path]) -> None:
    words = [
        "fit", "--config", "demo.yaml", "--only", "avqa,dfew,ave", f"--data.root={small['mini']}",
        f"--model.init_args.pretrained={small['tiny']}", "--data.num_workers=0", "--data.epoch_size=8",
        "--data.batch_size=2", "--model.init_args.adapter.rank=2", "--model.init_args.adapter.dropout=0.1",
        "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2", "--data.val_share=0",
    ]  # fmt: skip
    measure = [
        "--trainer.callbacks=[{class_path: crab_lightning.dashboards.GradientConflict,"
        " init_args: {at_steps: [0, 1], every_n_steps: 2, samples: 2}}]"
    ]
    assert main([*words, "--run.folder", str(tmp_path / "plain"), "--trainer.callbacks=null"]) == 0
    assert main([*words, "--run.folder", str(tmp_path / "seen"), *measure]) == 0
    weights = [load_file(tmp_path / name / "adapter/adapter.safetensors") for name in ("plain", "seen")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    files = sorted((tmp_path / "seen/conflict").iterdir())
    assert [path.name for path in files] == ["step-000000.npz", "step-000001.npz", "step-000002.npz"]
    found = Conflict.load(files[-1])
    assert found.datasets == ("dfew", "avqa", "ave")  # as the config has them
    assert set(found.parts) == {"A", "B1", "B2", "B3", "router"}
    cosines = found.mean("B")
    assert np.allclose(np.diagonal(cosines), 1, atol=1e-5)
    assert np.allclose(cosines, cosines.T, atol=1e-6)
    assert (np.abs(cosines) <= 1 + 1e-6).all()


def test_a_gradient_is_that_of_the_mean_loss_per_target_token(build: object, small: dict[str, Path]) -> None:
    from crab_lightning.data import AVDataModule
    from crab_lightning.structures import DatasetSpec
    from crab_lightning.tasks import QuestionAnswering

    module = build()  # type: ignore[operator]
    rows = {"avqa": DatasetSpec("question_answering", "avqa", metrics=["music_avqa"])}
    data = AVDataModule(small["mini"], {"question_answering": QuestionAnswering()}, rows, val_share=0.0)
    data.processor = module.processor
    data.setup()
    module.eval()
    samples = data.samples("train")
    found = measured(module, data, {"avqa": samples, "again": samples[::-1]}, batch_size=1)
    off = found.cosines[:, 0, 1]
    assert np.allclose(off[np.isfinite(off)], 1, atol=1e-4)  # the order of the samples has no say
    rows_of = data.dataset(samples, with_target=True)
    batch = data.processor.collate([rows_of[i] for i in range(len(samples))])
    module.announce(batch)
    loss, tokens = module.losses(batch)
    (loss.sum() / tokens.sum()).backward()
    layer = dict(module.model.named_modules())[found.names[0]]
    place = found.parts.index("B1")
    assert layer.lora_B.grad is not None
    assert found.norms[place, 0] == pytest.approx(float(layer.lora_B.grad[:, : layer.rank].norm()), rel=1e-3)


def test_the_first_the_middle_and_the_last_layer_are_measured_when_none_is_named() -> None:
    config = AdapterConfig(kind="lora", rank=1)
    made = [torch.nn.ModuleDict({"q": LoRALinear(torch.nn.Linear(2, 2), config)}) for _ in range(6)]
    model = torch.nn.ModuleDict({"m": torch.nn.ModuleDict({"layers": torch.nn.ModuleList(made)})})
    chosen = [name for name, _ in _chosen_layers(model, None)]
    assert chosen == ["m.layers.0.q", "m.layers.3.q", "m.layers.5.q"]
    assert [name for name, _ in _chosen_layers(model, [1])] == ["m.layers.1.q"]
    with pytest.raises(ValueError, match=r"no adapter is in layers \[9\]; layers with adapters: \[0, 1"):
        _chosen_layers(model, [9])


def test_the_share_of_pairs_that_pull_apart_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, float] = {}
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.update(values))
    data = SimpleNamespace(
        datasets=dict.fromkeys("xyz"), samples=lambda split, name: [SimpleNamespace(id=name)]
    )
    trainer = SimpleNamespace(datamodule=data, is_global_zero=True, global_step=4, loggers=[logger])
    module = SimpleNamespace(
        training=True, device=torch.device("cpu"), eval=lambda: None, train=lambda mode: None
    )
    cosines = np.array([[[1.0, 0.2, -0.5], [0.2, 1.0, np.nan], [-0.5, np.nan, 1.0]]])
    found = Conflict(4, ("x", "y", "z"), ("q",), np.array([0]), ("A",), cosines, np.ones((1, 3)))
    monkeypatch.setattr("crab_lightning.dashboards.gradient_conflict.measured", lambda *_: found)
    callback = GradientConflict(at_steps=[4])
    callback._folder = tmp_path
    callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert logged == {"conflict/A/mean": pytest.approx(-0.15), "conflict/A/negative_share": 0.5}
