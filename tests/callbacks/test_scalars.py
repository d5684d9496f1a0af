from __future__ import annotations

import re
from collections import Counter

import torch

from crab_lightning.callbacks.scalars import TrainScalars, resident_gib, scalar_layout
from crab_lightning.structures import DatasetSpec


def test_layout_shows_the_run_first_and_then_each_task() -> None:
    rows = {"a": DatasetSpec("x", "ks"), "b": DatasetSpec("x", "ucf"), "c": DatasetSpec("y", "avcap")}
    layout = scalar_layout(rows, {"a": "accuracy", "b": "accuracy", "c": None})
    assert next(iter(layout)) == "Overview"
    assert list(layout["Headline scores, validation"]) == ["x"]
    patterns = layout["Headline scores, validation"]["x"][1]
    assert [re.sub(r"[\\^$]", "", p) for p in patterns] == ["val/x/a/accuracy", "val/x/b/accuracy"]
    assert re.match(patterns[0], "val/x/a/accuracy")
    assert not re.match(patterns[0], "val/x/a/accuracy_of_more")


def test_what_was_drawn_is_counted_over_a_resume() -> None:
    first, second = TrainScalars(), TrainScalars()
    first._drawn = Counter({"x/a": 3})
    second.load_state_dict(first.state_dict())
    assert second._drawn == {"x/a": 3}


def test_resident_memory_is_that_of_this_process() -> None:
    before = resident_gib()
    block = torch.ones(20_000_000)
    assert 0.06 < resident_gib() - before < 0.2
    del block
