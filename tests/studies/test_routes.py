"""Values of the observatory that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crab_lightning.adapters import LoRALinear
from crab_lightning.commands import main
from crab_lightning.inference.loading import load_run
from crab_lightning.studies.routes import Routes, head_likeness, recorded, routes_pictures, silhouette
from crab_lightning.studies.run_data import data_of
from crab_lightning.studies.study import read_study


def test_equal_heads_have_cosine_one_and_orthogonal_ones_zero() -> None:
    a, b = torch.zeros(4, 2), torch.zeros(4, 2)
    a[0, 0], b[1, 0] = 2.0, 5.0
    assert head_likeness(torch.cat([a, a * 3, b, -a], 1), 4).tolist() == [
        [1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]
    ]  # fmt: skip
    assert head_likeness(torch.zeros(4, 4), 2).tolist() == [[0, 0], [0, 0]]


def test_silhouette_is_one_for_far_groups_and_negative_for_mixed_ones() -> None:
    points = np.array([[0.0, 0], [0, 0], [9, 9], [9, 9]])
    assert silhouette(points, ["a", "a", "b", "b"]) == 1.0
    assert silhouette(points, ["a", "b", "a", "b"]) == pytest.approx(-0.5)
    assert silhouette(points, ["a"] * 4) is None


def test_numbers_on_dark_cells_are_white() -> None:
    routes = np.full((2, 4, 1, 2), 0.5, np.float32)
    routes[0, ..., :] = [0.1, 0.9]
    found = Routes(
        ("x", "y"), ("a", "b"), ("t", "t"), ("layers.0.q_proj",), np.zeros(1, int), routes, np.eye(2)[None]
    )
    pictures = routes_pictures(found)
    for name, expected in (
        ("activation", ["white", "white", "black", "black"]),
        ("likeness", ["white", "black", "black", "white"]),
    ):
        assert [text.get_color() for text in pictures[name].axes[0].texts] == expected


def test_a_hand_set_router_gives_the_expected_map(finished: Path, tmp_path: Path) -> None:
    run = read_study(finished).folder / "cells/ilora.multi.seed0"
    assert main(["routes", str(run), "--out", str(tmp_path / "r")]) == 0
    assert {p.name for p in (tmp_path / "r").glob("*.png")} == {
        "pairs-by-dataset.png", "pairs-by-task.png", "activation.png", "likeness.png"
    }  # fmt: skip
    found = Routes.load(tmp_path / "r/routes.npz")
    assert found.routes.shape[1] == 4
    assert set(found.datasets) == {"avqa", "dfew"}
    known = found.routes[np.isfinite(found.routes).all(-1)]
    assert np.allclose(known.sum(-1), 1, atol=1e-5)
    model, _ = load_run(run)
    data = data_of(run)
    data.processor = model.processor
    for layer in model.modules():
        if isinstance(layer, LoRALinear) and layer.lora_route is not None:
            layer.lora_route.data.zero_()  # every logit is 0: each head gets a third of every token
    even = recorded(model, data, data.samples("test"))
    assert np.allclose(even.routes[np.isfinite(even.routes)], 1 / 3)
    assert all(value == pytest.approx(1) for value in even.entropy().values())
    sinks = [m.route_sinks for m in model.modules() if isinstance(m, LoRALinear)]
    assert not any(sinks)  # recording off costs nothing
