"""Figures gathered between two log lines."""

from __future__ import annotations

import pytest
import torch

from crab_lightning.models.log_window import LossWindow


def test_losses_are_means_over_tokens_for_each_dataset() -> None:
    window = LossWindow()
    mask = torch.ones(2, 5, dtype=torch.long)
    window.add(["ave", "s4"], torch.tensor([4.0, 6.0]), torch.tensor([2, 3]), mask)
    window.add(["ave", "ave"], torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), mask)
    assert len(window) == 2
    figures = window.drain()
    assert figures["loss"] == pytest.approx(11 / 6)
    assert figures["ave/loss"] == pytest.approx(5 / 3)
    assert figures["s4/loss"] == pytest.approx(2.0)
    assert figures["tokens_per_s"] / figures["samples_per_s"] == pytest.approx(20 / 4)
    assert len(window) == 0
