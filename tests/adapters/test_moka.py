"""MokA is what a plain loop over samples and tokens computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from crab_lightning.adapters import AdapterConfig, Places
from crab_lightning.adapters.kinds.moka import MokALinear
from crab_lightning.structures import AUDIO, TEXT, VISUAL

# Two samples: padding, text, pictures, sound, text, answer; and a sample without sound or answer.
MODALITY = torch.tensor(
    [[TEXT, TEXT, VISUAL, VISUAL, AUDIO, TEXT, TEXT], [TEXT, VISUAL, TEXT, TEXT, TEXT, TEXT, TEXT]]
)
PROMPT = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]]).bool()
PRESENT = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]]).bool()


def layer(**settings: object) -> MokALinear:
    torch.manual_seed(0)
    made = MokALinear(nn.Linear(6, 8), AdapterConfig(kind="moka", rank=3, alpha=5.0, **settings))
    nn.init.normal_(made.lora_B)
    return made.double()


def by_hand(moka: MokALinear, x: Tensor, modality: Tensor, prompt: Tensor, mixing: float) -> Tensor:
    out = []
    for tokens, kinds, asked in zip(x, modality.tolist(), prompt.tolist(), strict=True):
        z = [moka.lora_A[kind] @ token for token, kind in zip(tokens, kinds, strict=True)]
        question = [z[i] for i, kind in enumerate(kinds) if kind == TEXT and asked[i]]
        for i, token in enumerate(tokens):
            u = z[i]
            if kinds[i] != TEXT and question:
                weights = torch.stack([z[i] @ other / math.sqrt(moka.rank) for other in question]).softmax(0)
                u = u + mixing * sum(w * other for w, other in zip(weights, question, strict=True))
            out.append(moka.base(token) + moka.config.alpha / moka.rank * moka.lora_B @ u)
    return torch.stack(out).view(*x.shape[:2], -1)


@pytest.mark.parametrize("mixing", [0.5, 0.0, 1.3])
def test_output_and_gradients_are_those_of_a_loop_over_tokens(mixing: float) -> None:
    moka = layer(mixing=mixing)
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    moka.batch.tell(places=lambda: Places(MODALITY, PROMPT, PRESENT))
    found, wanted = moka(x), by_hand(moka, x, MODALITY, PROMPT, mixing)
    torch.testing.assert_close(found, wanted)
    g = torch.randn_like(wanted)
    inputs = [x, moka.lora_A, moka.lora_B]
    torch.testing.assert_close(torch.autograd.grad(found, inputs, g), torch.autograd.grad(wanted, inputs, g))


def test_no_place_takes_anything_from_the_answer() -> None:
    moka, x = layer(), torch.randn(2, 7, 6, dtype=torch.float64)
    moka.batch.tell(places=lambda: Places(MODALITY, PROMPT, PRESENT))
    other = x.clone()
    other[~PROMPT] += 3
    with torch.enable_grad():
        assert torch.equal(moka(x)[PROMPT], moka(other)[PROMPT])


def test_media_without_any_text_of_a_prompt_take_nothing() -> None:
    moka, x = layer(), torch.randn(1, 3, 6, dtype=torch.float64)
    kinds = torch.full((1, 3), VISUAL)
    moka.batch.tell(places=lambda: Places(kinds, torch.ones(1, 3).bool(), torch.ones(1, 3).bool()))
    torch.testing.assert_close(moka(x), by_hand(moka, x, kinds, torch.ones(1, 3).bool(), 0.5))


@torch.no_grad()
def test_what_is_read_after_the_prompt_is_text_even_if_it_is_as_long() -> None:
    moka, x = layer(), torch.randn(2, 7, 6, dtype=torch.float64)
    moka.batch.tell(places=lambda: Places(MODALITY, PROMPT, PRESENT))
    moka(x)
    text = torch.full((2, 7), TEXT)
    for later in (x[:, :1], x):
        torch.testing.assert_close(moka(later), by_hand(moka, later, text[:, : later.shape[1]], PROMPT, 0.5))


def test_an_input_of_other_places_and_a_batch_that_was_not_announced_are_refused() -> None:
    moka = layer()
    with pytest.raises(RuntimeError, match="moka does not know which places"):
        moka(torch.randn(2, 7, 6, dtype=torch.float64))
    moka.batch.tell(places=lambda: Places(MODALITY, PROMPT, PRESENT))
    with pytest.raises(ValueError, match=r"moka got an input \(14, 6\) for a batch of \(2, 7\) places"):
        moka(torch.randn(14, 6, dtype=torch.float64))


def test_parameters_are_those_of_lora_and_two_more_a_matrices() -> None:
    moka = layer()
    assert sum(p.numel() for p in moka.parameters(recurse=False)) == 3 * 3 * 6 + 8 * 3
