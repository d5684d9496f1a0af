"""The learning rate over a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from crab_lightning.models import OmniModule
from crab_lightning.models.token_mean import cosine_with_warmup, total_optimizer_steps


def rates(total: int, share: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_with_warmup(optimizer, total, share)
    out = []
    for _ in range(total):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


def test_rate_rises_over_the_warmup_and_falls_to_nearly_zero() -> None:
    lr = rates(100, 0.1)
    assert lr[0] == pytest.approx(0.1)
    assert lr[9] == pytest.approx(1.0) == max(lr)
    assert lr[10:] == sorted(lr[10:], reverse=True)
    assert 0 < lr[-1] < 0.001


def test_single_step_runs_at_full_rate() -> None:
    assert rates(1, 0.03) == [1.0]


def test_no_warmup_starts_at_the_peak() -> None:
    assert rates(10, 0.0)[0] == 1.0


def test_warmup_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.warmup_share is 1\.5"):
        OmniModule("nowhere", warmup_share=1.5)


def test_run_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer returns inf.*max_steps"):
        total_optimizer_steps(SimpleNamespace(estimated_stepping_batches=float("inf")))
