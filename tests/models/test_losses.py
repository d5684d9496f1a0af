"""The loss is the library's own, without the logits that no target needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from crab_lightning.configuration.files import found_path
from crab_lightning.models.losses import last_hidden_states, target_losses
from crab_lightning.structures import Batch
from tests.models.conftest import Build
from tests.processing.examples import image_example, video_example


def test_loss_equals_that_of_the_library(build: Build, batch: Batch) -> None:
    module = build()
    loss_sum, tokens = module.losses(batch)
    theirs = module.model(**batch.inputs, labels=batch.labels).loss
    torch.testing.assert_close(loss_sum.sum() / tokens.sum(), theirs, atol=1e-6, rtol=1e-6)


def test_sample_losses_add_up_over_its_own_tokens(build: Build, batch: Batch) -> None:
    module = build()
    assert batch.labels is not None
    loss_sum, tokens = module.losses(batch)
    logits = module.model(**batch.inputs).logits.float()
    for row in range(2):
        wanted = functional.cross_entropy(
            logits[row, :-1], batch.labels[row, 1:], ignore_index=-100, reduction="sum"
        )
        assert loss_sum[row].item() == pytest.approx(wanted.item(), rel=1e-5)
        assert tokens[row] == (batch.labels[row] != -100).sum()


def test_without_a_mask_losses_and_gradients_are_equal(build: Build) -> None:
    module = build(pretrained=found_path("crab_lightning/assets/mini_omni"))
    pairs = [(video_example, {"count": 10, "seconds": 10.0}), (image_example, {"target": "a longer answer"})]
    encode, collate = module.processor.encode, module.processor.collate
    batch = collate([encode(make(**options)) for make, options in pairs])
    masks: list[torch.Tensor | None] = []
    module.decoder().layers[0].self_attn.register_forward_pre_hook(
        lambda _m, _args, options: masks.append(options["attention_mask"]), with_kwargs=True
    )
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data.normal_(std=0.05)

    def found(losses: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        sums = losses()
        return [sums, *torch.autograd.grad(sums.sum(), weights)]

    def with_mask() -> torch.Tensor:
        hidden = last_hidden_states(module.model, **batch.inputs, use_cache=False)
        return target_losses(hidden, batch.labels, module.model.lm_head)[0]

    ours, theirs = found(lambda: module.losses(batch)[0]), found(with_mask)
    assert [mask is None for mask in masks] == [True, False]
    assert not batch.inputs["attention_mask"].all()
    assert all(one.abs().max() > 0 for one in ours)
    assert all(map(torch.equal, ours, theirs))
    # Prompts are padded in front.
    prompts = collate([encode(make(**options | {"target": None})) for make, options in pairs])
    module.losses(replace(prompts, labels=prompts.inputs["input_ids"]))
    assert masks[2] is not None


def test_logits_are_made_at_targets_only() -> None:
    head = nn.Linear(8, 30)
    seen: list[int] = []
    head.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    labels = torch.full((2, 50), -100)
    labels[0, 10:13] = 4
    labels[1, 49] = 5
    target_losses(torch.randn(2, 50, 8), labels, head)
    assert seen == [4]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 30)
    hidden = torch.randn(2, 20, 8)
    labels = torch.randint(0, 30, (2, 20))
    labels[:, :9] = -100
    results = []
    for size in (10_000, chunk):
        states = hidden.clone().requires_grad_()
        loss_sum, _ = target_losses(states, labels, head, chunk_tokens=size)
        (gradient,) = torch.autograd.grad(loss_sum.sum(), states)
        results.append((loss_sum, gradient))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_sample_without_a_target_has_no_loss() -> None:
    labels = torch.full((2, 5), -100)
    labels[1, 3] = 2
    loss_sum, tokens = target_losses(torch.randn(2, 5, 8), labels, nn.Linear(8, 30))
    assert loss_sum[0] == 0
    assert tokens.tolist() == [0, 1]
