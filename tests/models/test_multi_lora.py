"""Multi-LoRA through the module: tasks come from the batch's samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from crab_lightning.adapters import AdapterConfig, read_adapter_config
from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch
from tests.models.conftest import Build
from tests.processing.examples import image_example
from tests.quiet import quiet_trainer, with_trained_adapters

TASKS = ["event_localization", "segmentation"]


def adapter(tasks: list[str] | None = None) -> AdapterConfig:
    return AdapterConfig(kind="multi_lora", rank=4, tasks=tasks)


def of_tasks(batch: Batch, *tasks: str) -> Batch:
    return replace(batch, samples=[replace(s, task=t) for s, t in zip(batch.samples, tasks, strict=True)])


def randomize(module: OmniModule) -> OmniModule:
    torch.manual_seed(1)
    return with_trained_adapters(module)


@pytest.fixture(scope="module")
def pair(processor: NativeProcessor) -> list[Batch]:
    """Two small samples in one batch, then each alone."""
    encoded = [
        processor.encode(image_example("a")),
        processor.encode(image_example("b", target="longer than")),
    ]
    return [processor.collate(encoded), *(processor.collate([e]) for e in encoded)]


def test_a_mixed_batch_has_the_loss_of_each_sample_alone(build: Build, pair: list[Batch]) -> None:
    module = randomize(build(adapter=adapter(TASKS)))
    mixed = module.validation_step(of_tasks(pair[0], *TASKS), 0)["loss_sum"]
    alone = [
        module.validation_step(of_tasks(b, t), 0)["loss_sum"] for b, t in zip(pair[1:], TASKS, strict=True)
    ]
    torch.testing.assert_close(mixed, torch.cat(alone), atol=1e-4, rtol=1e-4)
    swapped = module.validation_step(of_tasks(pair[0], *TASKS[::-1]), 0)["loss_sum"]
    assert (swapped - mixed).abs().min() > 1e-3


def test_gradient_checkpointing_gives_the_same_gradients(build: Build, pair: list[Batch]) -> None:
    gradients = []
    for checkpointing in (False, True):
        module = randomize(build(adapter=adapter(TASKS), gradient_checkpointing=checkpointing)).train()
        module.training_step(of_tasks(pair[0], *TASKS), 0).backward()
        gradients.append([p.grad for p in module.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-5, rtol=1e-4)


def test_an_unknown_task_at_inference_is_named_with_the_known_ones(
    build: Build, prompts: list[Batch]
) -> None:
    module = build(adapter=adapter(["captioning", "segmentation"]))
    with pytest.raises(ValueError, match="'event_localization'; it knows: captioning, segmentation"):
        module.generate(prompts[1])


class Data(LightningDataModule):  # type: ignore[misc]
    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch
        self.tasks = {"segmentation": None, "event_localization": None}

    def train_dataloader(self) -> Any:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]


def test_tasks_left_out_are_those_of_the_data_and_are_saved(
    tiny: Path, pair: list[Batch], tmp_path: Path
) -> None:
    module = OmniModule(str(tiny), adapter=adapter(), dtype="float32")
    runner = quiet_trainer(tmp_path, max_steps=1)
    runner.fit(module, datamodule=Data(of_tasks(pair[0], *TASKS)))
    module.save_adapter(tmp_path / "a")
    assert read_adapter_config(tmp_path / "a").tasks == TASKS
    again = OmniModule(str(tiny), adapter=adapter(), load_adapter=tmp_path / "a", dtype="float32")
    again.configure_model()
    assert again.adapter is not None
    assert again.adapter.tasks == TASKS
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other = OmniModule(str(tiny), adapter=adapter(["captioning", "segmentation"]), dtype="float32")
    with pytest.raises(
        ValueError, match="tasks \\['event_localization', 'segmentation'\\], but this run has"
    ):
        other.on_load_checkpoint(checkpoint)


def test_tasks_that_nothing_gives_are_asked_for(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter\.tasks is not given"):
        OmniModule(str(tiny), adapter=adapter(), dtype="float32").configure_model()
