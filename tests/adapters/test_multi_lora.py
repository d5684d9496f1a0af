"""Each row of a batch passes through the LoRA of its own task, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from crab_lightning.adapters import (
    AdapterConfig,
    AdapterError,
    LoRALinear,
    MultiLoRALinear,
    announce_batch,
    insert_adapters,
    load_adapters,
    save_adapters,
)
from tests.adapters.test_insert import Thinker, config

TASKS = ["captioning", "event_localization", "question_answering"]
MIXED = ["question_answering", "captioning", "question_answering", "event_localization"]


def layer(seed: int = 0, **settings: Any) -> MultiLoRALinear:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"kind": "multi_lora", "rank": 4, "alpha": 6.0, "tasks": TASKS}
    made = MultiLoRALinear(nn.Linear(10, 12), AdapterConfig(**(defaults | settings)))
    nn.init.normal_(made.lora_B)
    return made


def single(multi: MultiLoRALinear, task: str) -> LoRALinear:
    """Return plain LoRA with the weights of one task."""
    lora = LoRALinear(multi.base, AdapterConfig(kind="lora", rank=multi.rank, alpha=multi.config.alpha))
    at = TASKS.index(task)
    lora.lora_A.data, lora.lora_B.data = multi.lora_A.data[at], multi.lora_B.data[at]
    return lora


def trained(seed: int = 0, **settings: Any) -> Thinker:
    torch.manual_seed(99)
    model = Thinker()
    insert_adapters(model, config(kind="multi_lora", **({"tasks": TASKS} | settings)))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("tasks", [MIXED, ["captioning"] * 4])
def test_each_row_is_what_its_tasks_lora_gives(tasks: list[str]) -> None:
    multi, x = layer(), torch.randn(4, 5, 10)
    multi.batch.tell(tasks)
    wanted = torch.stack([single(multi, task)(row) for task, row in zip(tasks, x, strict=True)])
    torch.testing.assert_close(multi(x), wanted)


def test_gradients_reach_the_tasks_of_the_batch_and_no_other() -> None:
    multi, x = layer().double(), torch.randn(4, 5, 10, dtype=torch.float64, requires_grad=True)
    tasks = ["captioning", "question_answering", "captioning", "question_answering"]
    multi.batch.tell(tasks)
    multi(x).square().sum().backward()
    loras = {task: single(multi, task).double() for task in TASKS}
    other = x.detach().clone().requires_grad_()
    rows = zip(tasks, other, strict=True)
    torch.stack([loras[task](row) for task, row in rows]).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    assert multi.lora_A.grad is not None
    assert multi.lora_B.grad is not None
    for i, task in enumerate(TASKS):
        if task in tasks:
            torch.testing.assert_close(multi.lora_A.grad[i], loras[task].lora_A.grad)
            torch.testing.assert_close(multi.lora_B.grad[i], loras[task].lora_B.grad)
        else:
            assert not multi.lora_A.grad[i].any()
            assert not multi.lora_B.grad[i].any()


def test_checkpointing_recomputes_with_the_same_tasks() -> None:
    multi, x = layer(), torch.randn(4, 5, 10)
    multi.batch.tell(MIXED)
    multi(x).square().sum().backward()
    wanted, multi.lora_B.grad = multi.lora_B.grad, None
    checkpoint(multi, x, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(multi.lora_B.grad, wanted)


def test_every_task_starts_as_its_own_draw_and_changes_nothing() -> None:
    torch.manual_seed(0)
    made = MultiLoRALinear(nn.Linear(10, 12), AdapterConfig(kind="multi_lora", rank=4, tasks=TASKS))
    a = made.lora_A.detach()
    assert not torch.equal(a[0], a[1])
    assert a.abs().max() <= 10**-0.5  # Kaiming-uniform with a = sqrt 5 over 10 inputs, not over 4 x 10
    assert a.abs().max() > 0.9 * 10**-0.5
    made.batch.tell(MIXED)
    x = torch.randn(4, 5, 10)
    torch.testing.assert_close(made(x), made.base(x))


def test_layers_of_a_model_share_the_choice_and_later_ones_win() -> None:
    model, x = trained(), torch.randn(2, 3, 8)
    announce_batch(model, ["captioning", "question_answering"])
    mixed = model(x)
    for i, task in enumerate(("captioning", "question_answering")):
        announce_batch(model, [task])
        torch.testing.assert_close(mixed[i : i + 1], model(x[i : i + 1]), atol=1e-4, rtol=1e-4)


def test_an_unknown_task_is_named_with_the_known_ones() -> None:
    model = trained()
    announce_batch(model, ["captioning", "grounding"])
    with pytest.raises(ValueError, match=r"no adapter for task 'grounding'; it knows: captioning, event_loc"):
        model(torch.randn(2, 3, 8))


def test_a_batch_without_tasks_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not know the tasks of the samples"):
        trained()(torch.randn(2, 3, 8))


@pytest.mark.parametrize("shape", [(5, 10), (4, 10), (3, 5, 10)])
def test_rows_that_are_not_the_samples_are_refused_unless_all_are_of_one_task(shape: tuple[int, ...]) -> None:
    multi, x = layer(), torch.randn(shape)
    multi.batch.tell(MIXED)
    with pytest.raises(ValueError, match=r"for 4 samples of several tasks.*adapter\.within"):
        multi(x)
    multi.batch.tell(["captioning"] * 4)
    torch.testing.assert_close(multi(x), single(multi, "captioning")(x))


def test_parameters_are_counted_for_all_tasks() -> None:
    count = {}
    for kind in ("lora", "multi_lora"):
        report = insert_adapters(Thinker(), config(kind=kind, tasks=TASKS if kind == "multi_lora" else None))
        count[kind] = report.parameters
    assert count["multi_lora"] == 3 * count["lora"]
    assert "multi_lora: rank 2, alpha 32, dropout 0, tasks" in str(report.config)


def test_saved_and_loaded_adapters_give_the_same_output(tmp_path: Path) -> None:
    model, other, x = trained(1), trained(2), torch.randn(4, 3, 8)
    save_adapters(model, tmp_path, {})
    load_adapters(other, tmp_path)
    for each in (model, other):
        announce_batch(each, MIXED)
    assert torch.equal(model(x), other(x))


def test_the_same_tasks_in_another_order_are_refused(tmp_path: Path) -> None:
    save_adapters(trained(), tmp_path, {})
    with pytest.raises(AdapterError, match=r"adapter\.tasks is \['captioning', .*in the model"):
        load_adapters(trained(tasks=TASKS[::-1]), tmp_path)


def test_tasks_must_be_given_and_differ() -> None:
    with pytest.raises(ValueError, match=r"adapter\.tasks is not given; list the task keys"):
        insert_adapters(Thinker(), config(kind="multi_lora"))
    with pytest.raises(ValueError, match="give task keys, each once"):
        AdapterConfig(kind="multi_lora", tasks=["ave", "ave"])
